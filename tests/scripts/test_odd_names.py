"""Photographs of odd names in folders of their own go through all stages, by lists in the kits' form or not."""

import shutil
from pathlib import Path

import pytest
from conftest import infer_flags, run_here, train_flags
from stage_runs import aff_flags

from tool.io.files import portable
from tool.io.images import open_mask
from tool.io.scores import read_scores

NAMES = ["a b/c (1).JPG", "a b/c (2).png", "Grüße.jpeg", "x/y/z.jpg", "plain.JPEG", "n.1.bmp"]


@pytest.fixture(scope="module")
def odd(toy, tmp_path_factory):
    """The first images of the toy set under NAMES -> (folder, their IDs)."""
    root = tmp_path_factory.mktemp("odd") / "my set"
    ids = []
    for k, name in enumerate(NAMES):
        ids.append(name.rpartition(".")[0])
        for folder, suffix in (("JPEGImages", ".jpg"), ("Annotations", ".xml"), ("SegmentationClass", ".png")):
            path = root / folder / (name if suffix == ".jpg" else f"{ids[-1]}{suffix}")
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(toy / folder / f"toy_{k:05d}{suffix}", path)  # what a picture is, its content tells
    lines = [f"/JPEGImages/{name} /SegmentationClass/{i}.png" for name, i in zip(NAMES[:2], ids)] + NAMES[2:4] + ids[4:]
    (root / "train.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return root, ids


def succeeds_here(script, *args):
    code, errors = run_here(script, *args)
    assert code == 0, errors[-2000:]


def test_odd_names_through_all_stages(odd, tmp_path):
    root, ids = odd
    small = ["--epochs", 2, "--T", 1, "--batch_size", 3, "--batch_size_triplet", 3]
    succeeds_here("train.py", "--name", "n", "--experiment", tmp_path, *train_flags(root), *small)
    flags = [*infer_flags(root, tmp_path, epoch=1), "--dict", "--crf", "--vis", "--alphas", 2, 19]
    succeeds_here("infer.py", *flags)
    n = tmp_path / "n"
    maps = {i: read_scores(n / "dict" / f"{i}.npy") for i in ids}
    assert sum(len(m) for m in maps.values()) == len(list((n / "vis").rglob("*.png")))
    before = {path: path.stat().st_mtime_ns for path in (n / "dict").rglob("*.npy")}
    succeeds_here("infer.py", *flags)  # all is done, and found to be
    assert before == {path: path.stat().st_mtime_ns for path in (n / "dict").rglob("*.npy")}

    aff = aff_flags(root, tmp_path)
    more = ["--val_list", root / "train.txt", "--pretrained", n / "ckpt" / "001net_main.pth"]
    succeeds_here("train_aff.py", *aff, *more, "--epochs", 1, "--batch_size", 3, "--crop_size", 96)
    succeeds_here("infer_aff.py", *aff, "--vis")
    for image_id in ids:
        shape = open_mask(root / "SegmentationClass" / f"{image_id}.png", 21).shape
        assert open_mask(n / "rw" / "02_1908" / f"{image_id}.png", 21).shape == shape
    score = ["--name", "n", "--experiment", tmp_path, "--voc12_root", root, "--list", root / "train.txt"]
    for task, folder in (("cam", "dict"), ("crf", "crf/02"), ("png", "rw/02_1908")):
        succeeds_here("evaluation.py", *score, "--task", task, "--dict_dir", folder)


def test_names_without_colons(tmp_path):
    """New names are spelled with `-`, either spelling finds what is there, in whatever folder."""
    place = tmp_path / "of: me"
    assert portable(place / "smp:Unet:resnet18") == place / "smp-Unet-resnet18"  # nor need that folder be there
    for old in ("smp:Unet:resnet18", "deeplab_timm:a.b"):
        (place / old).mkdir(parents=True)
        assert portable(place / old) == portable(place / old.replace(":", "-")) == place / old
    (place / "smp:Unet:resnet18").rename(place / "smp-Unet-resnet18")
    assert portable(place / "smp:Unet:resnet18") == place / "smp-Unet-resnet18"
    assert portable(place / "dict") == place / "dict" and portable(".") == Path(".")
