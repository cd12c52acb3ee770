"""AffinityNet's two scripts as a user runs them, on a dozen drawn images."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, prints, refused, run_here, succeeds
from PIL import Image
from stage_runs import aff_flags, train_aff_flags

from engine.distributed import World
from models.affinity import AffinityNet
from tool.io.files import read_list
from tool.io.images import open_mask
from tool.io.lock import locked
from tool.io.scores import read_scores, write_scores
from tool.pseudo_labels import refine_labels, stack_scores, walk_scores
from voc12.classes import VOC_CLASSES
from voc12.data import AffinitySet
from voc12.transforms import AffinityView, normalise, rescale


@pytest.fixture(scope="module")
def affine(toy, inferred):
    out = succeeds("train_aff.py", *train_aff_flags(toy, inferred))
    assert "best.pth is chosen by random walk mIoU on the masks" in out and "ground truth" in out
    return inferred


@pytest.fixture
def copy(affine, tmp_path):
    """The experiment in a folder of its own, to continue or to damage."""
    shutil.copytree(affine / "n", tmp_path / "n")
    return tmp_path


def weights(folder):
    files = sorted((folder / "n" / "ckpt_aff" / "aff021908").glob("*.pth"))
    return {p.name: torch.load(p, weights_only=True) for p in files if p.name != "resume.pth"}


def assert_same_weights(one, other):
    a, b = weights(one), weights(other)
    assert list(a) == list(b) == ["00.pth", "01.pth", "best.pth"]
    for name, state in a.items():
        assert all(torch.equal(value, b[name][key]) for key, value in state.items()), name


def test_training_keeps_the_best_walk(affine):
    text = (affine / "n" / "log_aff021908.txt").read_text()
    scores = [float(line.split("mIoU ")[1].split(",")[0]) for line in text.splitlines() if ": random walk mIoU" in line]
    records = [json.loads(k) for k in (affine / "n" / "log_aff021908.jsonl").read_text().splitlines()]
    assert len(scores) == 3  # 6 steps, every 2
    assert records[-1]["best"] == pytest.approx(max(scores), abs=0.01)
    assert records[-1]["total"] == pytest.approx(
        records[-1]["bg"] / 4 + records[-1]["fg"] / 4 + records[-1]["neg"] / 2, rel=1e-4
    )
    assert "group scratch weight: 4 tensors" in text and "lr 0.1" in text  # tenfold


def test_validation_with_crf_scores_what_infer_aff_writes(toy, copy):
    train = [*train_aff_flags(toy, copy), "--epochs", 1, "--val_every", 3, "--val_crf", "--overwrite"]
    out = prints("train_aff.py", *train)
    assert "by random walk and CRF mIoU on the masks" in out
    kept, flags = copy / "n" / "settings.json", aff_flags(toy, copy)
    settings = kept.rename(copy / "settings.json")  # there is none with maps of another method
    width = flags.index("--width")
    prints("infer_aff.py", *flags[:width], *flags[width + 2 :], "--crf_workers", 1, "--overwrite")
    assert json.loads((copy / "n/rw/02_1908/run.json").read_text())["settings"]["width"] == flags[width + 1]
    settings.rename(kept)
    place = ["--name", "n", "--experiment", copy, "--list", toy / "train.txt", "--json", copy / "s.json"]
    prints("evaluation.py", *place, "--task", "png", "--dict_dir", "rw/02_1908")
    (record,) = [json.loads(k) for k in (copy / "n" / "log_aff021908.jsonl").read_text().splitlines()]
    assert record["best"] == pytest.approx(json.loads((copy / "s.json").read_text())["miou"])


def test_a_best_checkpoint_that_is_gone(toy, affine, copy):
    """It cannot be made again: the run says so, names the weights that are left, and the best that comes is kept."""
    folder = copy / "n" / "ckpt_aff" / "aff021908"
    (folder / "best.pth").unlink()
    (folder / "01.pth").unlink()
    flags = [*train_aff_flags(toy, copy), "--pretrained", affine / "n" / "ckpt" / "003net_main.pth", "--resume"]
    out = prints("train_aff.py", *flags)
    assert f"{folder / 'best.pth'} (random walk mIoU" in out and "is gone and cannot be made again" in out
    assert f"{folder / '01.pth'} was gone: written from resume.pth" in out
    command = out.split("next: python ")[1].split()
    assert command[-2:] == ["--weights", str(folder / "01.pth")] and command[0] == "infer_aff.py"
    assert not (folder / "best.pth").exists()
    prints("train_aff.py", *flags, "--epochs", 3)
    records = [json.loads(line) for line in (copy / "n" / "log_aff021908.jsonl").read_text().splitlines()]
    assert (folder / "best.pth").exists() and records[-1]["best"] > 0


def test_select_last_uses_no_masks_and_missing_masks_mean_the_same(toy, broken, copy):
    out = succeeds("train_aff.py", *train_aff_flags(toy, copy), "--select", "last", "--overwrite")
    assert "no ground truth is used" in out and "random walk mIoU" not in out
    states = weights(copy)
    assert all(torch.equal(v, states["01.pth"][k]) for k, v in states["best.pth"].items())
    shutil.rmtree(broken / "SegmentationClass")
    flags = train_aff_flags(broken, copy)
    out = succeeds("train_aff.py", *flags, "--overwrite")
    assert "no ground truth is used" in out


def test_labels_are_what_the_stages_of_the_walk_give(toy, affine, tmp_path):
    out = succeeds("infer_aff.py", *aff_flags(toy, affine), "--vis")
    assert "12 images, 0 done before" in out
    folder = affine / "n" / "rw" / "02_1908"
    net = AffinityNet(0.0625).eval()
    net.load_released_state(weights(affine)["best.pth"])
    for image_id in read_list(toy / "train.txt")[:3]:
        stored = Image.open(folder / f"{image_id}.png")
        assert stored.mode == "P"
        cams = read_scores(affine / "n" / "dict" / f"{image_id}.npy")
        photo = Image.open(toy / "JPEGImages" / f"{image_id}.jpg")
        keys, scores = stack_scores(cams, 8)
        walked = walk_scores(net, normalise(rescale(photo, 2)), scores, torch.device("cpu"))
        assert np.array_equal(np.asarray(stored), refine_labels(np.asarray(photo), keys, walked))
        assert set(np.unique(stored)) <= set(keys.tolist())
    assert len(list((affine / "n" / "rw_vis" / "02_1908").glob("*.png"))) == 12
    again = succeeds("infer_aff.py", *aff_flags(toy, affine), "--vis")
    assert "12 done before" in again
    succeeds(
        "evaluation.py",
        "--name",
        "n",
        "--experiment",
        affine,
        "--voc12_root",
        toy,
        "--list",
        toy / "train.txt",
        "--task",
        "png",
        "--dict_dir",
        "rw/02_1908",
        "--json",
        tmp_path / "r.json",
    )
    assert 0 < json.loads((tmp_path / "r.json").read_text())["miou_present"] < 100
    refused("infer_aff.py", *aff_flags(toy, affine), "--steps", 3, says=["other settings", "steps 64, not 3"])


def test_pair_masks_come_from_the_crop_alone(toy, inferred):
    ids = read_list(toy / "train.txt")
    folder = inferred / "n" / "crf"
    data = AffinitySet(toy, ids, folder / "02", folder / "19", AffinityView(96, 2.0), seed=1)
    image_id, image, masks = data[(0, 3)]
    assert image_id == ids[3] and image.shape == (3, 96, 96) and masks.shape == (3, 34, 8 * 4)
    assert masks.sum(0).max() <= 1 and masks.dtype == torch.uint8
    assert torch.equal(masks, data[(0, 3)][2]) and not torch.equal(image, data[(1, 3)][1])


@pytest.fixture
def walked(toy, copy):
    """`copy` with pseudo labels."""
    prints("infer_aff.py", *aff_flags(toy, copy))
    return copy


def labels(folder):
    return {p.stem: p.stat().st_mtime_ns for p in (folder / "n/rw/02_1908").glob("*.png")}


def test_changed_maps_and_photographs_are_walked_again(broken, walked):
    before = labels(walked)
    first, second, third = sorted(before)[2:5]
    path = walked / f"n/dict/{second}.npy"
    write_scores(path, {5: np.full_like(next(iter(read_scores(path).values())), 0.8)})
    photo = broken / "JPEGImages" / f"{third}.jpg"
    Image.fromarray(255 - np.array(Image.open(photo))).save(photo)
    (walked / f"n/rw/02_1908/{first}.png").unlink()
    out = prints("infer_aff.py", *aff_flags(broken, walked))
    assert "9 done before, 2 again because they have changed" in out and "(maps of 1, photograph of 1; first" in out
    after = labels(walked)
    assert sorted(k for k in before if before[k] != after[k]) == [first, second, third]
    assert set(np.unique(Image.open(walked / f"n/rw/02_1908/{second}.png"))) <= {0, 6}
    assert "12 done before" in prints("infer_aff.py", *aff_flags(broken, walked))


def test_maps_of_other_methods_are_walked(toy, copy):
    """In IRN's form, with numpy's integers as keys, as half floats; those beyond 1 are cut, with one warning."""
    shutil.rmtree(copy / "n" / "rw", ignore_errors=True)
    paths = sorted((copy / "n" / "dict").glob("*.npy"))
    for k, path in enumerate(paths):
        maps = read_scores(path)
        if k % 2:
            np.save(path, {np.int64(c): (5 * m if k == 3 else m).astype(np.float16) for c, m in maps.items()})
        else:
            np.save(path, {"keys": np.array(list(maps)), "cam": None, "high_res": np.stack(list(maps.values()))})
    code, errors = run_here("infer_aff.py", *aff_flags(toy, copy))
    assert code == 0 and errors.count("warning:") == 1, errors
    assert str(paths[3]) in errors and "values from" in errors
    for path in paths:
        found = np.unique(Image.open(copy / "n" / "rw" / "02_1908" / f"{path.stem}.png"))
        assert set(found.tolist()) <= {0, *(k + 1 for k in read_scores(path))}


def test_released_flags_without_effect(toy, walked):
    code, errors = run_here("infer_aff.py", *aff_flags(toy, walked), "--val_list", "x.txt", "--crop_size", 448)
    assert code == 0
    assert errors.count("--val_list has no effect") == errors.count("--crop_size has no effect") == 1


def test_one_walk_an_output_folder(toy, walked):
    with locked([walked / "n/rw/02_1908"], World()):
        refused("infer_aff.py", *aff_flags(toy, walked), says=[f"process {os.getpid()} on", "rw/02_1908"])


# ---------------------------------------------------------------- what bad input gets


def test_alphas_and_stages_that_do_not_fit(toy, affine, copy):
    flags = train_aff_flags(toy, copy)
    for low, high in ((19, 2), (2, 2)):
        powers = ["--low", low, "--high", high]
        refused("train_aff.py", *flags, "--overwrite", *powers, says="low must be below high")
        refused("infer_aff.py", *aff_flags(toy, copy), *powers, says="low must be below high")
    refused("train_aff.py", *flags, says=["holds a run already", "--resume"])
    refused("train_aff.py", *flags, "--high", 21, says=["crf/21: nothing for 12 of 12 ", "infer.py --crf --alphas 21"])
    for name in read_list(toy / "train.txt")[:5]:
        (copy / "n" / "crf" / "02" / f"{name}.npy").unlink()
    refused("train_aff.py", *flags, "--overwrite", says=["crf/02: nothing for 5 of 12", "infer.py --crf --alphas 2"])
    refused("infer_aff.py", *aff_flags(toy, copy), "--dup", 9, says=["aff021909", "run python train_aff.py"])
    refused("train_aff.py", *flags, "--crop_size", 100, says="multiple of 8")
    (copy / "n" / "dict" / "toy_00000.npy").unlink()
    refused("infer_aff.py", *aff_flags(toy, copy), says=["dict: nothing for 1 of 12", "infer.py --dict"])


def test_start_weights(toy, copy):
    flags = [k if k != copy / "n" / "ckpt" / "003net_main.pth" else "auto" for k in train_aff_flags(toy, copy)]
    if not any((ROOT / "pretrained" / n).exists() for n in ("res38_cls.pth", "resnet_38d.params")):
        refused("train_aff.py", *flags, "--overwrite", says=["pretrained/README.md", "--pretrained none"])


def test_score_files_that_are_not_ours(toy, copy):
    shutil.rmtree(copy / "n" / "rw", ignore_errors=True)  # done images would be skipped
    stored = (copy / "n" / "dict" / "toy_00004.npy").read_bytes()
    np.save(copy / "n" / "dict" / "toy_00004.npy", {"a": 1})
    refused("infer_aff.py", *aff_flags(toy, copy), says=["dict/toy_00004.npy", "not a score file of ours"])
    (copy / "n" / "dict" / "toy_00004.npy").write_bytes(stored)
    path = copy / "n" / "crf" / "02" / "toy_00004.npy"
    truth = open_mask(toy / "SegmentationClass" / "toy_00004.png", 21)
    write_scores(path, {0: np.ones((truth.shape[0], truth.shape[1] + 1))})
    flags = [*train_aff_flags(toy, copy), "--overwrite"]
    refused("train_aff.py", *flags, says=["02/toy_00004.npy", "for an image of"])
    path.write_bytes(b"hello")
    refused("train_aff.py", *flags, says=["02/toy_00004.npy", "not a score file of ours"])


def test_make_pipeline_runs_all_stages_and_then_finds_them_done(toy, tmp_path):
    (tmp_path / "classes.txt").write_text("\n".join(reversed(VOC_CLASSES)))
    narrow = "--width 0.0625 --num_workers 0 --device cpu"
    command = [
        "make",
        "-o",
        ".venv/.installed",
        "pipeline",
        f"PY={sys.executable}",
        f"VOC={toy}",
        f"EXPERIMENT={tmp_path}",
        f"TRAIN_LIST={toy}/train.txt",
        f"VAL_LIST={toy}/train.txt",
        f"DATA_FLAGS=--classes {tmp_path}/classes.txt",
        "EPOCHS=2",
        "LOW=2",
        "HIGH=9",
        "DUP=5",
        f"TRAIN_FLAGS={narrow} --pretrained none --T 1 --batch_size 4 --batch_size_triplet 6 --crop_size 48 "
        "--resize 48 72",
        f"INFER_FLAGS={narrow}",
        f"WALK_FLAGS={narrow}",
        f"AFF_FLAGS={narrow} --pretrained none --epochs 1 --batch_size 4 --crop_size 64",
        "SEG_FLAGS=--num_workers 0 --device cpu --epochs 1 --batch_size 4 --crop_size 64",
        "SEG_INFER_FLAGS=--num_workers 0 --device cpu --scales 1",
    ]
    for expected, more, scored in (("0 done before", [], 4), ("12 done before", ["SEG_LIST=none"], 3)):
        result = subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, timeout=400)
        assert result.returncode == 0, result.stderr[-2000:]
        assert result.stdout.count("over the") == scored and f"12 images, {expected}" in result.stdout
        # each knows the order of the classes
        assert len(re.findall("background .*\ntvmonitor ", result.stdout)) == scored
    assert len(list((tmp_path / "aeft" / "rw" / "02_0905").glob("*.png"))) == 12
    assert len(list((tmp_path / "aeft" / "seg" / "deeplab_resnet38d").glob("*.png"))) == 4


def commands_of_pipeline(*variables):
    # under `make test` this make is a second one, which would print the directories that it enters and leaves
    command = ["make", "-n", "--no-print-directory", "-o", ".venv/.installed", "pipeline", *variables]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def test_make_pipeline_without_masks_scores_nothing(toy, tmp_path):
    for variables, stages in (([f"VOC={toy}", "VAL_LIST=none"], 4), ([f"VOC={tmp_path}"], 3)):
        lines = commands_of_pipeline(*variables)
        assert not [line for line in lines if "evaluation.py" in line]
        assert sum("not scored, no masks" in line for line in lines) == stages
    scored = [line for line in commands_of_pipeline(f"VOC={toy}", "VAL_LIST=a.txt") if "evaluation.py" in line]
    assert [line.split("--list ")[1].split()[0] for line in scored] == ["a.txt"] * 3 + ["val"]


def test_make_pipeline_goes_on_to_the_segmentation_network(toy):
    lines = commands_of_pipeline(f"VOC={toy}", "LOW=2", "HIGH=9", "DUP=5", "ARCH=smp:Unet:resnet18")
    last = [line.split(" ", 1)[1] for line in lines[-3:]]
    assert last[0].startswith("train_seg.py") and "--labels rw/02_0905" in last[0] and "--resume" in last[0]
    assert "--arch smp:Unet:resnet18 --infer_list val" in last[1]
    assert last[2].endswith("--list val --task png --dict_dir seg/smp-Unet-resnet18")
