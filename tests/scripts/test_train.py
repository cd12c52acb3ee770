"""train.py as a user runs it, on a dozen drawn images: training, resuming, and refused input of all scripts."""

import json
import shutil
import subprocess

import pytest
import torch
from conftest import infer_flags, prints, refused, run_script, succeeds

from tool.io.scores import read_scores


def states(folder):
    return {p.name: torch.load(p, weights_only=True) for p in sorted((folder / "ckpt").glob("*net_main.pth"))}


def assert_same_training(one, other):
    a, b = states(one), states(other)
    assert list(a) == list(b) == [f"{k:03d}net_main.pth" for k in range(4)]
    for name, state in a.items():
        assert all(torch.equal(value, b[name][key]) for key, value in state.items()), name
    lines = [[json.loads(k) for k in (p / "log.jsonl").read_text().splitlines()] for p in (one, other)]
    for record in lines[0] + lines[1]:
        record.pop("seconds")
    assert lines[0] == lines[1] and [r["epoch"] for r in lines[0]] == [0, 1, 2, 3]


def test_training_log_shows_both_phases_and_validates_from_T_minus_1(trained):
    records = [json.loads(line) for line in (trained / "n" / "log.jsonl").read_text().splitlines()]
    assert [r["phase"] for r in records] == ["warm-up", "warm-up", "triplet", "triplet"]
    assert [r["steps"] for r in records] == [3, 3, 2, 2]
    assert [("miou" in r) for r in records] == [False, True, True, True]
    assert records[0]["planned_steps"] == 12 // 4 * 4 and records[3]["global_step"] == 10
    assert records[3]["lr"] == pytest.approx(0.01 * (1 - 9 / 12) ** 0.9)  # poly counts batches of the warm-up's size
    assert all(r["attract"] == 0 for r in records[:2]) and all(r["attract"] > 0 for r in records[2:])
    text = (trained / "n" / "log.txt").read_text()
    assert "6 warm-up steps of 4 until epoch 2, then 4 triplet steps of 6; poly planned for 12" in text
    assert "12 images" in text and "group trunk weight" in text


@pytest.mark.parametrize(
    ("epochs", "first", "size", "planned"),
    [(3, 1, 2, 3 + 2 * 6), (3, 0, 3, 3 * 4), (2, 2, 2, 2 * 3), (3, 1, 4, 9), (3, 1, 6, 9)],
)
def test_the_schedule_does_not_end_before_the_run(toy_flags, tmp_path, epochs, first, size, planned):
    """A dozen images in batches of 4 before epoch T; 9 steps are 3 epochs of them, as released plans."""
    few = ["--epochs", epochs, "--T", first, "--batch_size_triplet", size, "--val_list", "none"]
    out = prints("train.py", "--name", "n", "--experiment", tmp_path, *toy_flags, *few)
    last = [json.loads(line) for line in (tmp_path / "n" / "log.jsonl").read_text().splitlines()][-1]
    assert last["planned_steps"] == planned >= last["global_step"]
    assert last["lr"] == pytest.approx(0.01 * (1 - (last["global_step"] - 1) / planned) ** 0.9) and last["lr"] > 0
    assert ("not for the released fewer" in out) == (planned > 3 * epochs)


def test_a_longer_run_that_goes_on_has_a_longer_schedule(toy_flags, tmp_path):
    common = ["--name", "n", "--experiment", tmp_path, *toy_flags, "--batch_size_triplet", 2, "--val_list", "none"]
    prints("train.py", *common, "--epochs", 2, "--T", 1)
    prints("train.py", *common, "--epochs", 3, "--T", 1, "--resume")
    records = [json.loads(line) for line in (tmp_path / "n" / "log.jsonl").read_text().splitlines()]
    assert [r["planned_steps"] for r in records] == [9, 9, 15] and records[-1]["global_step"] == 15
    assert records[-1]["lr"] == pytest.approx(0.01 * (1 / 15) ** 0.9)


def test_number_of_workers_changes_nothing(trained, toy_flags, tmp_path):
    flags = [2 if before == "--num_workers" else k for before, k in zip(["", *toy_flags], toy_flags)]
    succeeds("train.py", "--name", "n", "--experiment", tmp_path, *flags)
    assert_same_training(trained / "n", tmp_path / "n")


# ---------------------------------------------------------------- another data set


def test_a_data_set_with_other_classes(tmp_path, toy):
    """--classes: two of the toy's classes under an order of their own; the rest are unknown names in the XML."""
    (tmp_path / "classes.txt").write_text("tvmonitor\nbird\ncar\nbottle\ncat\n")
    common = [
        "--name",
        "own",
        "--experiment",
        tmp_path,
        "--voc12_root",
        toy,
        "--classes",
        tmp_path / "classes.txt",
        "--width",
        0.0625,
        "--num_workers",
        0,
        "--device",
        "cpu",
    ]
    succeeds(
        "train.py",
        *common,
        "--train_list",
        toy / "train.txt",
        "--val_list",
        "none",
        "--pretrained",
        "none",
        "--epochs",
        1,
        "--T",
        1,
        "--batch_size",
        4,
        "--crop_size",
        48,
        "--resize",
        48,
        72,
    )
    assert states(tmp_path / "own")["000net_main.pth"]["fc9.weight"].shape == (5, 256, 1, 1)
    succeeds("infer.py", *common, "--infer_list", toy / "val.txt", "--load_epo", 0, "--dict")
    keys = {k for p in (tmp_path / "own" / "dict").glob("*.npy") for k in read_scores(p)}
    assert keys <= set(range(5))


# ---------------------------------------------------------------- what bad input gets


def quick(root, folder, **changes):
    flags = {
        "name": "b",
        "experiment": folder,
        "voc12_root": root,
        "train_list": root / "train.txt",
        "val_list": "none",
        "pretrained": "none",
        "width": 0.0625,
        "epochs": 1,
        "T": 1,
        "batch_size": 4,
        "crop_size": 48,
        "num_workers": 0,
        "device": "cpu",
    } | changes
    return [f"--{k}={v}" for k, v in flags.items()]


def test_lists_and_images_that_are_not_there(broken, tmp_path):
    refused("train.py", *quick(broken, tmp_path, train_list="nowhere.txt"), says=["nowhere.txt", "no such list"])
    (broken / "empty.txt").write_text("\n")
    refused("train.py", *quick(broken, tmp_path, train_list=broken / "empty.txt"), says="the list is empty")
    (broken / "JPEGImages" / "toy_00003.jpg").unlink()
    refused("train.py", *quick(broken, tmp_path), says=["toy_00003.jpg", "no such image (1 of 12"])
    assert not (tmp_path / "b" / "ckpt").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_truncated_jpeg(broken, tmp_path, workers):
    path = broken / "JPEGImages" / "toy_00005.jpg"
    path.write_bytes(path.read_bytes()[:700])
    result = run_script("train.py", *quick(broken, tmp_path, num_workers=workers))
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith(f"train.py: error: {path}: unreadable image")
    assert "Traceback" not in result.stderr


def test_labels_that_are_missing(broken, tmp_path):
    (broken / "Annotations" / "toy_00002.xml").unlink()
    refused("train.py", *quick(broken, tmp_path), says="toy_00002")


def test_too_few_images_for_a_batch_and_contradictions(broken, tmp_path):
    refused("train.py", *quick(broken, tmp_path, batch_size=13), says="12 images do not fill one batch of 13")
    flags = quick(broken, tmp_path)
    refused("train.py", *flags, "--TH", 0.2, 0.6, says="HIGH must be above LOW")
    refused("train.py", *flags, "--resize", 90, 50, says="MIN must not be above MAX")
    refused("train.py", *quick(broken, tmp_path, width=0.01), says="width")
    refused("train.py", *quick(broken, tmp_path, device="cuda:99"), says="--device")


def test_weights_that_are_not_there_or_not_ours(broken, tmp_path):
    (tmp_path / "text.params").write_text("not weights")
    refused("train.py", *quick(broken, tmp_path, pretrained=tmp_path / "text.params"), says="text.params")
    refused("train.py", *quick(broken, tmp_path, pretrained="gone.params"), says="gone.params")


def test_a_loss_that_is_not_finite_stops_the_run(broken, tmp_path):
    flags = quick(broken, tmp_path, epochs=4, T=4, lr=1e25)
    line = refused("train.py", *flags, says=["loss is not finite at step", "toy_0"])
    assert "images" in line


def test_a_run_is_not_overwritten_by_accident(toy, trained, toy_flags):
    common = ["--name", "n", "--experiment", trained, *toy_flags]
    refused("train.py", *common, says=["holds a run already", "--resume", "--overwrite"])
    refused("train.py", *common, "--resume", "--lr", 0.5, says=["--lr 0.01, not 0.5"])


def test_read_only_output_is_one_line(toy, trained, tmp_path):
    (tmp_path / "n").write_text("a file where the folder should be")
    weights = trained / "n" / "ckpt" / "003net_main.pth"
    flags = [k for k in infer_flags(toy, tmp_path) if k not in ("--load_epo", 3)]
    refused("infer.py", *flags, "--weights", weights, "--dict", says=str(tmp_path / "n"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of two megabytes; needs the right to mount."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(toy, trained, small_disk):
    flags = [small_disk if k == trained else k for k in infer_flags(toy, trained) if k not in ("--load_epo", 3)]
    (small_disk / "filler").write_bytes(bytes(2**21 - 200_000))
    result = run_script("infer.py", *flags, "--weights", trained / "n" / "ckpt" / "003net_main.pth", "--dict", "--crf")
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr[-1500:]
    assert "No space left" in result.stderr and str(small_disk) in result.stderr
    written = list((small_disk / "n").rglob("*.npy"))
    assert written and all(read_scores(p) for p in written)
    assert not list(small_disk.rglob("*.tmp"))
    (small_disk / "filler").unlink()
    flags = [*flags, "--weights", trained / "n" / "ckpt" / "003net_main.pth"]
    succeeds("infer.py", *flags, "--dict", "--alphas", 2)
    train = ["--name", "t", "--experiment", small_disk, *quick(toy, small_disk)[2:], "--overwrite"]
    result = run_script("train.py", *train)
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr[-1500:]
    assert "No space left" in result.stderr and "--resume continues" in result.stderr
    assert not list(small_disk.rglob("*.tmp"))
