"""All three trainings that begin, go on and end: nothing is lost, nothing is mixed; refusals are one line."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from bad_files import CLASSES, IDS, INDEX, make_set, random_maps
from conftest import load_script, prints, refused, run_here
from hypothesis import given
from hypothesis import strategies as st
from stage_runs import read_log

from engine.distributed import World
from engine.resume import Progress, check_begin
from tool.io.files import fingerprint
from tool.io.lock import locked
from tool.io.torch_files import read_torch
from voc12.labels import any_negative, write_cls_labels

TRAIN, TRAIN_AFF, TRAIN_SEG = TRAININGS = ("train.py", "train_aff.py", "train_seg.py")
FOLDER = {TRAIN: "ckpt", TRAIN_AFF: "ckpt_aff/aff021909", TRAIN_SEG: "ckpt_seg/deeplab_resnet38d"}
LOG = {TRAIN: "log", TRAIN_AFF: "log_aff021909", TRAIN_SEG: "log_seg_deeplab_resnet38d"}
NAMES = {TRAIN: "{:03d}net_main.pth", TRAIN_AFF: "{:02d}.pth", TRAIN_SEG: "{:02d}.pth"}


def flags(script, place, **changes):
    """Flags of a run of three epochs at `place` that takes a second."""
    shared = {
        "name": "e",
        "experiment": place / "experiment",
        "voc12_root": place / "set",
        "train_list": place / "set" / "list.txt",
        "val_list": "none",
        "pretrained": "none",
        "width": 0.0625,
        "epochs": 3,
        "batch_size": 2,
        "num_workers": 0,
        "device": "cpu",
    }
    own = {
        TRAIN: {"T": 2, "batch_size_triplet": 3, "resize": "24 32", "crop_size": 24},
        TRAIN_AFF: {"low": 2, "high": 19, "dup": 9, "crop_size": 64, "scale": 2},
        TRAIN_SEG: {"labels": place / "set" / "SegmentationClass", "crop_size": 25},
    }[script]
    words = []
    for name, value in (shared | own | changes).items():
        words += [f"--{name}", *str(value).split()] if name == "resize" else [f"--{name}", value]
    return words


def works(script, place, *extra, **changes):
    code, errors = run_here(script, *flags(script, place, **changes), *extra)
    assert code == 0, errors
    return errors


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """{script: a place where two of three epochs are done}."""
    made = {}
    for script in TRAININGS:
        place = made[script] = tmp_path_factory.mktemp("two_epochs")
        make_set(place / "set")
        for seed, alpha in enumerate(("02", "19")):
            folder = place / "experiment" / "e" / "crf" / alpha
            random_maps(folder, IDS, lambda i: (0, 1 + INDEX[CLASSES[i]]), seed=seed)
            (folder / "run.json").write_text(json.dumps({"origin": f"{seed:016x}", "settings": {"alpha": alpha}}))
        works(script, place, "--stop_epoch", 2)
    return made


@pytest.fixture
def place(request, places, tmp_path):
    """A copy of `places[script]`, to go on from."""
    return shutil.copytree(places[request.getfixturevalue("script")], tmp_path / "place")


every = pytest.mark.parametrize("script", TRAININGS)
train_only = pytest.mark.parametrize("script", [TRAIN])


def run_folder(place, script):
    return place / "experiment" / "e" / FOLDER[script]


def checkpoint(place, script, epoch):
    return run_folder(place, script) / NAMES[script].format(epoch)


def contents(place):
    """{file: bytes} of the experiment, without locks and TensorBoard's."""
    found = [p for p in (place / "experiment").rglob("*") if p.is_file() and p.name[0] != "."]
    return {p: p.read_bytes() for p in found if "tensorboard" not in p.parts}


def refuses(place, script, *extra, says, **changes):
    """Refused, and every file is as it was."""
    before = contents(place)
    line = refused(script, *flags(script, place, **changes), *extra, says=says)
    assert contents(place) == before
    return line


def same_weights(one, other):
    a, b = read_torch(one), read_torch(other)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# ---------------------------------------------------------------- nothing is lost


@every
def test_parts_are_one_run(place, script, tmp_path):
    """Its last epoch by itself; in train.py the one with the triplet."""
    whole = shutil.copytree(place, tmp_path / "whole")
    shutil.rmtree(run_folder(whole, script))
    works(script, whole)
    refuses(place, script, says=["holds a run already", "--resume continues it"])
    works(script, place, "--resume")
    names = [[path.name for path in sorted(run_folder(k, script).glob("*.pth"))] for k in (place, whole)]
    assert names[0] == names[1] and NAMES[script].format(2) in names[0]
    for name in {*names[0]} - {"resume.pth"}:
        assert same_weights(run_folder(place, script) / name, run_folder(whole, script) / name), name
    logs = [read_log(k / "experiment" / "e" / f"{LOG[script]}.jsonl") for k in (place, whole)]
    for record in logs[0] + logs[1]:
        record.pop("seconds")
    assert logs[0] == logs[1] and [record["epoch"] for record in logs[0]] == [0, 1, 2]


@every
def test_resume_without_a_resume_file_deletes_nothing(place, script):
    (run_folder(place, script) / "resume.pth").unlink()
    for extra in ([], ["--epochs", 1], ["--epochs", 2]):
        says = [str(run_folder(place, script)), "no resume.pth", "--overwrite deletes"]
        refuses(place, script, "--resume", *extra, says=says)
    line = refuses(place, script, says=["no resume.pth", "--overwrite"])
    assert "--resume continues" not in line


@every
def test_a_published_checkpoint_stays(place, script):
    """The only file of the folder, as somebody who has not trained yet drops it in."""
    published = checkpoint(place, script, 39)
    kept = checkpoint(place, script, 0).read_bytes()
    shutil.rmtree(published.parent)
    published.parent.mkdir()
    published.write_bytes(kept)
    refuses(place, script, "--resume", says=[published.name, "no resume.pth"])
    errors = works(script, place, "--overwrite", epochs=1)
    assert f"--overwrite deletes from {published.parent}: {published.name}" in errors
    assert not published.exists() and checkpoint(place, script, 0).exists()


@every
def test_overwrite_says_what_it_deletes(place, script):
    errors = works(script, place, "--overwrite", epochs=1)
    names = [NAMES[script].format(epoch) for epoch in (0, 1)]
    assert all(name in errors for name in ["--overwrite deletes", "resume.pth", *names])
    assert not checkpoint(place, script, 1).exists()


@every
def test_resume_starts_where_there_is_nothing(place, script):
    shutil.rmtree(run_folder(place, script))
    assert "deletes" not in works(script, place, "--resume", epochs=1)
    assert checkpoint(place, script, 0).exists()


@every
def test_resume_to_fewer_epochs_than_are_done(place, script):
    refuses(place, script, "--resume", epochs=1, says=["epoch 2, step 0", "--epochs 1"])
    before = contents(place)
    assert "resuming with --epochs 2" in works(script, place, "--resume", epochs=2)
    after = contents(place)
    changed = {p.name for p in after if before.get(p) != after[p]}
    assert before.keys() == after.keys()
    assert changed <= {"run.json", f"{LOG[script]}.txt", "settings.json"}  # the last: the place is a copy
    lines = (place / "experiment" / "e" / f"{LOG[script]}.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1]


@given(
    epochs=st.sets(st.integers(0, 60), max_size=5),
    others=st.sets(st.sampled_from(["best.pth", "mine.pth", "notes.txt"])),
    with_resume=st.booleans(),
    resume=st.booleans(),
    overwrite=st.booleans(),
)
def test_when_a_run_begins_goes_on_or_is_refused(tmp_path_factory, epochs, others, with_resume, resume, overwrite):
    folder = tmp_path_factory.mktemp("run")
    names = {f"{k:03d}net_main.pth" for k in epochs} | others | ({"resume.pth"} if with_resume else set())
    for name in names:
        (folder / name).touch()
    try:
        answer = check_begin(folder, resume, overwrite)
    except Exception as error:
        answer = str(error)
    if resume and with_resume:
        assert answer is True
    elif overwrite or not any(name.endswith(".pth") for name in names):
        assert answer is False
    else:
        assert str(folder) in answer and ("--resume continues" in answer) == with_resume
    assert {p.name for p in folder.iterdir()} == names


@every
def test_the_last_checkpoint_comes_back_from_the_resume_file(place, places, script):
    works(script, place, "--resume")
    last = checkpoint(place, script, 2)
    whole = shutil.copy(last, place / "whole.pth")
    for path in run_folder(place, script).glob("*.pth"):
        if path.name != "resume.pth":
            path.unlink()
    out = prints(script, *flags(script, place), "--resume")
    assert f"{last} was gone" in out
    assert same_weights(last, whole) and not checkpoint(place, script, 1).exists()
    if script != TRAIN:  # --val_list none: best.pth is the last epoch
        assert same_weights(run_folder(place, script) / "best.pth", whole)


@every
@pytest.mark.parametrize("change", [{}, {"lr": 0.5}])
def test_resume_with_overwrite_goes_on_where_it_can(place, script, change):
    first = checkpoint(place, script, 0).read_bytes()
    errors = works(script, place, "--resume", "--overwrite", **change)
    assert ("--overwrite deletes" in errors) == ("not resumed" in errors) == bool(change)
    assert (checkpoint(place, script, 0).read_bytes() == first) == (not change)
    assert checkpoint(place, script, 2).exists()


@every
def test_resume_with_overwrite_keeps_a_run_whose_resume_file_is_damaged(place, script):
    path = run_folder(place, script) / "resume.pth"
    state = read_torch(path)
    torch.save(state | {"checkpoints": ["../0"]}, path)
    refuses(place, script, "--resume", "--overwrite", says="not a resume file")
    path.write_bytes(path.read_bytes()[:1000])
    refuses(place, script, "--resume", "--overwrite", says="not a whole torch checkpoint")


@train_only
def test_resume_with_overwrite_remembers_the_width(place, script):
    words = flags(script, place)
    at = words.index("--width")
    code, errors = run_here(script, *words[:at], *words[at + 2 :], "--resume", "--overwrite")
    assert code == 0 and "deletes" not in errors and checkpoint(place, script, 2).exists()


@every
def test_a_run_without_an_epoch_names_no_next_command(place, script):
    out = prints(script, *flags(script, place), "--overwrite", "--stop_epoch", 0)
    assert "next:" not in out and "0 epochs; no checkpoint is there for the next stage" in out


# ---------------------------------------------------------------- nothing is mixed


@every
def test_another_list_is_refused(place, script):
    path = place / "set" / "list.txt"
    path.write_text("".join(f"{i}\n" for i in reversed(IDS)))
    refuses(place, script, "--resume", says=["images of --train_list", "--overwrite"])
    path.write_text("".join(f"{i}\n" for i in IDS[:3]))
    refuses(place, script, "--resume", says="images of --train_list")


@every
def test_the_same_list_at_another_place_goes_on(place, script):
    moved = (place / "set" / "list.txt").rename(place / "moved.txt")
    works(script, place, "--resume", train_list=moved)
    assert checkpoint(place, script, 2).exists()


@train_only
def test_other_labels_are_refused(place, script):
    xml = place / "set" / "Annotations" / "two.xml"
    kept = xml.read_text()
    xml.write_text(kept.replace("dog", "cat"))
    refuses(place, script, "--resume", says=["image labels", "--overwrite"])
    table = {i: np.eye(20, dtype=np.float32)[INDEX[CLASSES[i]]] for i in IDS}
    write_cls_labels(place / "labels.npy", table)
    works(script, place, "--resume", cls_labels=place / "labels.npy")  # the old ones, in another form


@train_only
def test_other_class_names_are_refused(place, script):
    names = [f"class {k}" for k in range(20)]
    (place / "classes.txt").write_text("\n".join(names))
    settings = place / "experiment" / "e" / "settings.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"classes": str(place / "classes.txt")}))
    write_cls_labels(place / "labels.npy", {i: np.eye(20, dtype=np.float32)[INDEX[CLASSES[i]]] for i in IDS})
    refuses(place, script, "--resume", cls_labels=place / "labels.npy", says="class names")


@pytest.mark.parametrize("script", [TRAIN_AFF])
def test_crf_scores_of_another_origin_are_refused(place, script):
    record = place / "experiment" / "e" / "crf" / "19" / "run.json"
    record.write_text(record.read_text().replace("0001", "0002"))
    line = refuses(place, script, "--resume", says="CRF scores of crf/19")
    assert "crf/02" not in line


@every
def test_a_resume_file_of_an_earlier_version(place, script):
    """Without what it was trained on: goes on, and says so. With flags that are not ours: refused."""
    path = run_folder(place, script) / "resume.pth"
    state = read_torch(path)
    old = {k: v for k, v in state.items() if k not in ("data", "checkpoints")}
    torch.save(old | {"settings": old["settings"] | {"sharpness": 3}}, path)
    refuses(place, script, "--resume", says=["another version", "--sharpness"])
    torch.save(old, path)
    assert "of an earlier version" in works(script, place, "--resume")
    assert checkpoint(place, script, 2).exists()


@train_only
def test_a_second_run_is_refused_while_the_first_holds_the_folder(place, script):
    with locked([run_folder(place, script)], World()):
        refuses(place, script, "--resume", says=[f"process {os.getpid()}", str(run_folder(place, script))])
    works(script, place, "--resume")


def test_a_fingerprint_depends_on_order_and_type():
    values = [["a", "b"], ["b", "a"], ["ab"], [], None, "a", b"a", 1]
    assert len({fingerprint(value) for value in values} | {fingerprint(["a"], ["b"])}) == len(values) + 1


def test_progress_counts_steps_and_epochs():
    progress = Progress(sums=[0.0, 0.0])
    for total, cls in ((1.0, 4.0), (2.0, 6.0)):
        progress.count(lr=0.1)
        progress.add({"total": total, "cls": cls})
    means = {"total": 1.5, "cls": 5.0}
    assert (progress.epoch, progress.step, progress.global_step, progress.means()) == (0, 2, 2, means)
    progress.next_epoch()
    assert (progress.epoch, progress.step, progress.global_step, progress.sums) == (1, 0, 2, [0.0, 0.0])


# ---------------------------------------------------------------- --keep


@every
def test_keep_leaves_the_newest_and_what_others_wrote(place, script):
    checkpoint(place, script, 0).unlink()
    shutil.copy(checkpoint(place, script, 1), checkpoint(place, script, 39))
    works(script, place, "--resume", "--keep", 1, epochs=4)
    left = {p.name for p in run_folder(place, script).glob("*.pth")}
    best = {"best.pth"} if script != TRAIN else set()
    assert left == {NAMES[script].format(k) for k in (3, 39)} | {"resume.pth"} | best


@train_only
def test_a_checkpoint_dropped_in_for_a_deleted_one_stays(place, script):
    works(script, place, "--resume", "--keep", 1)
    dropped = checkpoint(place, script, 0)
    dropped.write_bytes(b"published")
    works(script, place, "--resume", "--keep", 1, epochs=5)
    assert dropped.read_bytes() == b"published" and not checkpoint(place, script, 2).exists()


# ---------------------------------------------------------------- said at the start


@every
def test_a_check_writes_nothing(place, script):
    before = contents(place)
    out = prints(script, *flags(script, place), "--check", "--resume")
    assert "images: all 4 can be read" in out and "free" in out and "about" in out and "all is well" in out
    steps = {TRAIN: ["4 steps of 2 images", "1 steps of 3 images"]}.get(script, ["6 steps of 2 images"])
    assert all(text in out for text in steps) and ("masks: all 4 can be read" in out) == (script == TRAIN_SEG)
    code, errors = run_here(script, *flags(script, place), "--check")
    assert code == 2 and "PROBLEM" in errors and "holds a run already" in errors and "found 1 problem" in errors
    assert contents(place) == before


LINE = "the repel term stays 0"


def check_labels(place, rows, **changes):
    """stderr of train.py --check with these rows of labels."""
    path = place / "labels.npy"
    write_cls_labels(path, dict(zip(IDS, np.array(rows, np.float32))))
    (place / "classes.txt").write_text("\n".join(f"class {k}" for k in range(len(rows[0]))))
    own = {"T": 0, "batch_size_triplet": 4, "cls_labels": path, "classes": place / "classes.txt", "name": "new"}
    return works(TRAIN, place, "--check", **(own | changes))


@train_only
def test_images_that_all_share_a_class_have_no_negatives(place, script):
    assert LINE in check_labels(place, [[1]] * 4)
    assert LINE in check_labels(place, [[1, 0], [1, 1], [1, 0], [1, 1]])
    assert LINE not in check_labels(place, [[1, 0], [1, 1], [0, 1], [1, 1]])
    assert LINE not in check_labels(place, [[1], [1], [0], [1]])  # the one that shows none is everybody's negative
    assert LINE not in check_labels(place, [[1]] * 4, T=3)  # no epoch with the triplet


@given(st.integers(1, 4).flatmap(lambda c: st.lists(st.tuples(*[st.booleans()] * c), min_size=1, max_size=6)))
def test_negatives_against_all_pairs(rows):
    labels = np.array(rows, np.uint8)
    pairs = [(a & b).any() for a in labels for b in labels if a.any()]  # without a class, it is no anchor
    assert any_negative(labels) == (not all(pairs))


@train_only
def test_a_set_without_masks_is_told_of_val_list_none(place, script):
    shutil.rmtree(place / "set" / "SegmentationClass")
    val_list = place / "set" / "list.txt"
    line = refuses(place, script, "--overwrite", val_list=val_list, says=["no such mask (4 of 4", "--val_list none"])
    assert str(Path("SegmentationClass") / "one.png") in line


@train_only
def test_a_released_command_line(place, script, monkeypatch):
    """As the released code takes it, on four images."""
    monkeypatch.chdir(place)
    shutil.copytree(place / "set", place / "data" / "VOC2012")
    line = (
        "--name released --model aeft_gpp --train_list set/list.txt --val_list none --pretrained none --max_epochs 40 "
        "--batch_size 2 --crop 48 48 --cj 0.4 0.4 0.4 0.1 --lr 0.01 --wt_dec 5e-4 --T 18 --M 0.5 --TH 0.6 0.2 "
        "--W 1 0.2 0.15 --batch_size_triplet 4 --num_workers 0 --print_freq 100 --width 0.0625 --check"
    )
    code, errors = run_here(script, *line.split())
    assert code == 0, errors
    assert errors.count("--print_freq has no effect") == 1
    parsed = load_script(script).get_args_parser().parse_args(line.split())
    assert (parsed.epochs, parsed.crop_size, parsed.jitter) == (40, 48, [0.4, 0.4, 0.4, 0.1])
    assert not (place / "experiment" / "released").exists()
