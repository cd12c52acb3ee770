"""--on_error skip: a broken image does not end a long run, it is left out and listed."""

import shutil

import pytest
import torch
from conftest import infer_flags, refused, run_here, run_script, train_flags
from stage_runs import aff_flags

from models.affinity import AffinityNet


@pytest.fixture
def truncated(broken):
    """A copy of the toy set with one cut JPEG and one missing one -> (folder, their IDs)."""
    ids = (broken / "train.txt").read_text().split()[1:3]
    path = broken / "JPEGImages" / f"{ids[0]}.jpg"
    path.write_bytes(path.read_bytes()[:400])
    (broken / "JPEGImages" / f"{ids[1]}.jpg").unlink()
    return broken, ids


def listed(path):
    return sorted(line.split("\t")[0] for line in path.read_text().splitlines())


def test_inference_leaves_broken_images_out(truncated, trained, tmp_path):
    data, ids = truncated
    (tmp_path / "n").mkdir()
    (tmp_path / "n/ckpt").symlink_to(trained / "n/ckpt")
    flags = [*infer_flags(data, tmp_path), "--dict"]
    refused("infer.py", *flags, says=ids[1])
    result = run_script("infer.py", *flags, "--on_error", "skip")
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "n/dict"
    assert listed(folder / "failed.txt") == sorted(ids)
    assert "2 images could not be used" in result.stderr and "Traceback" not in result.stderr
    assert len(list(folder.glob("*.npy"))) == 10 and not {p.stem for p in folder.glob("*.npy")} & set(ids)


def test_pseudo_labels_leave_broken_images_out(toy, inferred, tmp_path):
    """An image without maps, and one whose maps are broken."""
    ids = (toy / "train.txt").read_text().split()
    (tmp_path / "n/dict").mkdir(parents=True)
    for image_id in ids[:-1]:
        (tmp_path / f"n/dict/{image_id}.npy").write_bytes((inferred / f"n/dict/{image_id}.npy").read_bytes())
    (tmp_path / f"n/dict/{ids[0]}.npy").write_bytes(b"broken")
    torch.save(AffinityNet(0.0625).released_state(), tmp_path / "weights.pth")
    flags = [*aff_flags(toy, tmp_path), "--weights", tmp_path / "weights.pth"]
    refused("infer_aff.py", *flags, says="dict: nothing for 1 of 12")
    result = run_script("infer_aff.py", *flags, "--on_error", "skip")
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "n/rw/02_1908"
    assert listed(folder / "failed.txt") == sorted([ids[0], ids[-1]])
    assert len(list(folder.glob("*.png"))) == 10


def test_training_takes_the_next_image(truncated, tmp_path):
    """The same substitutes with and without worker processes: the same weights."""
    data, ids = truncated
    weights = []
    for workers in (0, 1):
        flags = [
            *train_flags(data),
            "--name",
            "n",
            "--experiment",
            tmp_path / str(workers),
            "--val_list",
            "none",
            "--epochs",
            1,
            "--num_workers",
            workers,
            "--on_error",
            "skip",
        ]
        result = run_script("train.py", *flags)
        assert result.returncode == 0, result.stderr
        assert set(listed(tmp_path / str(workers) / "n/ckpt/failed.txt")) == set(ids)
        weights.append(torch.load(tmp_path / str(workers) / "n/ckpt/000net_main.pth", weights_only=True))
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


def test_a_new_training_forgets_what_an_earlier_one_left_out(truncated, toy, tmp_path):
    """And says so of an image that fails again; --resume keeps what its own run has left out."""
    data, ids = truncated
    flags = [*train_flags(data), "--name", "n", "--experiment", tmp_path, "--val_list", "none", "--on_error", "skip"]
    noted = tmp_path / "n/ckpt/failed.txt"
    code, errors = run_here("train.py", *flags, "--stop_epoch", 1)
    assert code == 0 and errors.count("warning: left out") == 2 and set(listed(noted)) == set(ids)

    shutil.copy(toy / "JPEGImages" / f"{ids[0]}.jpg", data / "JPEGImages")
    code, errors = run_here("train.py", *flags, "--stop_epoch", 1, "--overwrite")
    assert code == 0 and f"warning: left out {ids[1]}" in errors and "1 images could not be used" in errors
    assert listed(noted) == [ids[1]]

    shutil.copy(toy / "JPEGImages" / f"{ids[1]}.jpg", data / "JPEGImages")
    code, errors = run_here("train.py", *flags, "--stop_epoch", 2, "--resume")
    assert code == 0 and "warning: left out" not in errors and listed(noted) == [ids[1]]
    (data / "JPEGImages" / f"{ids[1]}.jpg").write_bytes(b"\xff\xd8\xff")  # fails in another way than before
    code, errors = run_here("train.py", *flags, "--stop_epoch", 3, "--resume")
    assert code == 0 and f"warning: left out {ids[1]}" in errors and "1 images could not be used" in errors
    assert listed(noted) == [ids[1], ids[1]]
