"""Provenance and --check: what a run says of itself before, after and in run.json."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import infer_flags, refused, run_script, succeeds, train_flags
from stage_runs import aff_flags

from engine.outputs import Output
from engine.record import check_origins, origin_of
from tool.io.files import UserError, read_record
from tool.io.images import label_image, open_mask, save_image
from tool.io.scores import file_origin, read_scores, write_scores

HEX = "0123456789abcdef"


def record_of(folder):
    return json.loads((folder / "run.json").read_text())


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def evaluate(toy, folder, task, dict_dir, *more):
    return [
        "--name",
        "n",
        "--experiment",
        folder,
        "--voc12_root",
        toy,
        "--list",
        toy / "train.txt",
        "--task",
        task,
        "--dict_dir",
        dict_dir,
        *more,
    ]


@pytest.fixture
def copied(inferred, tmp_path):
    """A copy of the experiments of `inferred`, to be changed, without what other tests made of its maps."""
    shutil.copytree(inferred, tmp_path / "experiments", ignore=shutil.ignore_patterns("ckpt_aff", "rw*"))
    return tmp_path / "experiments"


# ---------------------------------------------------------------- marks


@pytest.mark.parametrize("compressed", [False, True])
def test_score_files_carry_their_origin_and_numpy_still_reads_them(tmp_path, compressed):
    path = tmp_path / "a.npy"
    scores = {7: np.full((3, 4), 0.5, np.float32)}
    write_scores(path, scores, compressed, HEX)
    assert file_origin(path) == HEX
    assert np.array_equal(read_scores(path)[7], scores[7])
    foreign = np.load(path, allow_pickle=True)
    foreign = foreign if compressed else foreign.item()
    assert np.array_equal(foreign["7" if compressed else 7], scores[7])
    write_scores(path, scores, compressed)
    assert file_origin(path) is None and np.array_equal(read_scores(path)[7], scores[7])


def test_pngs_carry_their_origin(tmp_path):
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    save_image(tmp_path / "a.png", label_image(labels), HEX)
    save_image(tmp_path / "b.png", label_image(labels))
    assert file_origin(tmp_path / "a.png") == HEX and file_origin(tmp_path / "b.png") is None
    assert np.array_equal(open_mask(tmp_path / "a.png", 21), labels)


def test_origins_differ_with_settings_and_not_with_their_order():
    assert origin_of({"a": 1, "b": 2}) == origin_of({"b": 2, "a": 1}) != origin_of({"a": 1, "b": 3})


def test_a_folder_is_of_one_origin(tmp_path):
    folder = tmp_path / "dict"
    output = Output(folder, {"epoch": 3}, ".npy")
    output.claim(False, {})
    origin = output.origin
    paths = [folder / f"{k}.npy" for k in range(4)]
    for path in paths:
        write_scores(path, {0: np.zeros((2, 2))}, origin=origin)
    check_origins(folder, paths)
    write_scores(paths[2], {0: np.zeros((2, 2))}, origin=origin_of({"epoch": 4}))
    with pytest.raises(UserError, match=r"mixed origins: 1 of 4 files .*first 2\.npy, of another run of ours"):
        check_origins(folder, paths)
    write_scores(paths[2], {0: np.zeros((2, 2))})
    with pytest.raises(UserError, match=r"1 of 4 files .*first 2\.npy, of no run of ours") as error:
        check_origins(folder, paths)
    assert "remove" not in str(error.value) and "again" not in str(error.value)  # it may be another method's
    for path in paths:
        write_scores(path, {0: np.zeros((2, 2))}, origin=origin_of({"epoch": 4}))
    with pytest.raises(UserError, match="4 of 4 files"):  # all of one run, but not of the one that run.json names
        check_origins(folder, paths)
    for path in paths:
        write_scores(path, {0: np.zeros((2, 2))})
    check_origins(folder, paths)  # all of another tool


# ---------------------------------------------------------------- run.json


def test_every_output_folder_says_where_it_came_from(toy, inferred):
    experiment = inferred / "n"
    weights = {"path": str(experiment / "ckpt/003net_main.pth"), "sha256": sha256(experiment / "ckpt/003net_main.pth")}
    a_list = {"path": str(toy / "train.txt"), "sha256": sha256(toy / "train.txt")}
    for name in ("dict", "crf/02", "crf/19", "vis"):
        record = record_of(experiment / name)
        assert record["command"].startswith("infer.py --name n") and record["arguments"]["alphas"] == [2, 19]
        assert record["arguments"]["scales"] == [0.5, 1.0, 1.5, 2.0]  # a default, resolved
        assert record["weights"] == weights and record["lists"] == [a_list] and record["seed"] == 0
        assert record["packages"]["torch"] == torch.__version__.split("+")[0] and record["version"]
        assert record["started"] <= record["ended"]
        assert record["summary"]["images"]["failed"] == 0
        files = [*(experiment / name).glob("*.npy"), *(experiment / name).glob("*.png")]
        assert len(files) >= 12 and {file_origin(path) for path in files} == {record["origin"]}
    record = record_of(experiment / "ckpt")
    assert record["command"].startswith("train.py") and record["settings"]["T"] == 2 and record["weights"] is None
    assert record["summary"]["images"]["done"] == 3 * 4 * 2 + 2 * 6 * 2
    assert len(record["lists"]) == 2


def test_runs_of_one_folder_are_all_recorded(toy, copied):
    folder = copied / "n" / "dict"
    before = record_of(folder)
    next(folder.glob("*.npy")).unlink()
    succeeds("infer.py", *infer_flags(toy, copied), "--dict")
    record = record_of(folder)
    assert record["origin"] == before["origin"] and record["earlier"][-1]["started"] == before["started"]
    assert record["summary"]["images"] == {"done": 1, "skipped": 11, "failed": 0}
    assert record["earlier"][-1]["summary"] == before["summary"]


def test_a_run_that_was_killed_has_no_end(tmp_path):
    for started in ("then", "now"):
        Output(tmp_path, {"epoch": 3}, ".npy").claim(False, {"started": started, "ended": None, "summary": None})
    record = read_record(tmp_path)
    assert record["started"] == "now" and record["earlier"] == [{"started": "then", "ended": None, "summary": None}]


def test_a_training_begun_anew_forgets_the_old_record(toy, copied):
    flags = ["--name", "n", "--experiment", copied, *train_flags(toy), "--epochs", 1]
    succeeds("train.py", *flags, "--overwrite")
    assert record_of(copied / "n/ckpt")["earlier"] == []
    succeeds("train.py", *flags, "--epochs", 2, "--resume")
    assert [run["arguments"]["epochs"] for run in record_of(copied / "n/ckpt")["earlier"]] == [1]


def test_mixed_folders_are_not_scored(toy, copied, tmp_path):
    flags = evaluate(toy, copied, "crf", "crf/02")
    succeeds("evaluation.py", *flags)
    one = sorted((copied / "n/crf/19").glob("*.npy"))[3]
    shutil.copy(one, copied / "n/crf/02" / one.name)
    line = refused("evaluation.py", *flags, says=("mixed origins", one.name, "--mixed_origins"))
    assert "1 of 12" in line
    checked = run_script("evaluation.py", *flags, "--check")
    assert checked.returncode == 2 and "mixed origins" in checked.stderr
    out = succeeds("evaluation.py", *flags, "--mixed_origins", "--json", tmp_path / "r.json")
    assert "origin: infer.py" in out and "alpha 2" in out
    run = json.loads((tmp_path / "r.run.json").read_text())
    assert run["origin"]["settings"]["alpha"] == 2 and run["summary"]["images"]["done"] == 12
    assert run["lists"] == [{"path": str(toy / "train.txt"), "sha256": sha256(toy / "train.txt")}]


# ---------------------------------------------------------------- summaries


def test_the_summary_counts_and_names_the_next_command(toy, copied):
    for name in ("dict", "crf/02", "crf/19"):
        for path in sorted((copied / "n" / name).glob("*.npy"))[:5]:
            path.unlink()
    (copied / "n/crf/19" / sorted(p.name for p in (copied / "n/crf/19").glob("*.npy"))[0]).unlink()
    out = succeeds("infer.py", *infer_flags(toy, copied), "--dict", "--crf", "--alphas", 2, 19)
    assert "6 images done, 6 skipped (done before), 0 failed" in out
    assert "maps: 5 images" in out and "from dict: 1 images" in out and "crf: 6 images" in out and "images/s" in out
    assert "peak memory" in out and f"wrote {copied / 'n/crf/19'}" in out
    command = out.split("next: python ")[1].split()
    assert command[0] == "evaluation.py"
    assert "mIoU" in succeeds(*command)  # as it stands there, with this experiment's flags
    assert record_of(copied / "n/crf/02")["summary"]["stages"]["crf"]["images"] == 6


def test_failures_are_counted(toy, broken, trained, tmp_path):
    shutil.copytree(trained / "n/ckpt", tmp_path / "e/n/ckpt")
    (broken / "JPEGImages" / f"{(toy / 'train.txt').read_text().split()[0]}.jpg").write_bytes(b"")
    result = run_script("infer.py", *infer_flags(broken, tmp_path / "e"), "--dict", "--on-error", "skip")
    assert result.returncode == 0 and "11 images done, 0 skipped (done before), 1 failed" in result.stdout
    assert record_of(tmp_path / "e/n/dict")["summary"]["images"] == {"done": 11, "skipped": 0, "failed": 1}


# ---------------------------------------------------------------- --check


AFF_TRAINING = ["--val_list", "none", "--pretrained", "none", "--epochs", 1, "--batch_size", 4, "--crop_size", 64]


def tree(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*")}


def test_a_check_passes_and_writes_nothing(toy, copied, tmp_path):
    calls = {
        "infer.py": [*infer_flags(toy, copied), "--crf", "--alphas", 5],
        "evaluation.py": evaluate(toy, copied, "cam", "dict", "--json", tmp_path / "r.json"),
    }
    before = tree(tmp_path)
    for script, flags in calls.items():
        out = succeeds(script, *flags, "--check")
        assert "about" in out and "all is well" in out, out
        assert "free" in out and "all 12 can be read" in out
        assert tree(tmp_path) == before
    succeeds("train_aff.py", *aff_flags(toy, copied), *AFF_TRAINING)
    before = tree(tmp_path)
    assert "walk" in succeeds("infer_aff.py", *aff_flags(toy, copied), "--check")
    assert tree(tmp_path) == before


def test_a_check_lists_every_image_that_does_not_open(broken, trained, tmp_path):
    shutil.copytree(trained / "n/ckpt", tmp_path / "e/n/ckpt")
    ids = (broken / "train.txt").read_text().split()
    for image_id in ids[2], ids[7]:
        path = broken / "JPEGImages" / f"{image_id}.jpg"
        path.write_bytes(path.read_bytes()[:-300])
    for script, flags in (
        ("train.py", ["--name", "m", "--experiment", tmp_path / "e", *train_flags(broken)]),
        ("infer.py", [*infer_flags(broken, tmp_path / "e"), "--dict"]),
    ):
        result = run_script(script, *flags, "--check")
        assert result.returncode == 2 and "Traceback" not in result.stderr
        problems = [line for line in result.stderr.splitlines() if "PROBLEM" in line]
        for image_id in ids[2], ids[7]:
            assert any(f"{image_id}.jpg" in line for line in problems)
        assert "--check found" in result.stderr.splitlines()[-1]
        assert not (tmp_path / "e/m").exists() and not (tmp_path / "e/n/dict").exists()


def test_a_check_says_what_stands_in_the_way(toy, copied):
    refused("infer.py", *infer_flags(toy, copied), "--dict", "--scales", 1, "--check", says="other settings")
    next((copied / "n/crf/02").glob("*.npy")).unlink()
    refused("train_aff.py", *aff_flags(toy, copied), *AFF_TRAINING, "--check", says="crf/02: nothing for 1 of 12 ")


def test_a_check_foresees_a_full_disk(toy, trained, monkeypatch):
    from engine import check

    monkeypatch.setattr(check.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    refused(
        "train.py",
        "--name",
        "full",
        "--experiment",
        trained,
        *train_flags(toy),
        "--check",
        says="--check found 1 problem",
    )
