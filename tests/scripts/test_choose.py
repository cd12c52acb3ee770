"""choose.py on drawn images with made maps: what is chosen, what later stages make of it, what is refused."""

import json
import shutil

import numpy as np
import pytest
from conftest import prints, refused, run_script

from engine.experiment import Experiment, read_chosen
from engine.report.found import find_stages
from models.affinity import AffinityNet
from models.checkpoint import save_weights
from models.resnet38d import ResNet38d
from tool.io.files import read_list
from tool.io.images import label_image, open_image, open_mask
from tool.io.scores import read_scores, write_scores
from tool.metrics import best_labels
from tool.par import par_of_large
from voc12.paths import image_path


@pytest.fixture(scope="module")
def made(toy, tmp_path_factory):
    """Experiment "n" with maps of the training images: 0.31 to 0.81 on the true objects, below 0.29 elsewhere."""
    folder, rng = tmp_path_factory.mktemp("made"), np.random.default_rng(0)
    (folder / "n/dict").mkdir(parents=True)
    for image_id in read_list(toy / "train.txt"):
        mask = open_mask(toy / "SegmentationClass" / f"{image_id}.png", 21)
        noise = rng.uniform(0, 1, mask.shape)
        maps = {k - 1: np.where(mask == k, 0.31 + 0.5 * noise, 0.29 * noise) for k in set(mask.flat) - {0, 255}}
        write_scores(folder / "n/dict" / f"{image_id}.npy", maps)
    return folder


@pytest.fixture
def few(toy, made, tmp_path):
    """A copy of the experiment, four of its masks in a list -> (folder of experiments, flags of choose.py)."""
    shutil.copytree(made, tmp_path / "e")
    (tmp_path / "few.txt").write_text("\n".join(read_list(toy / "train.txt")[:4]))
    flags = ["--name", "n", "--experiment", tmp_path / "e", "--voc12_root", toy, "--list", tmp_path / "few.txt"]
    return tmp_path / "e", [*flags, "--crf_workers", 1, "--alphas", 2, 8, "--sxy", 40, "--srgb", 5, "--sxy_side", 500]


def test_what_is_chosen_is_the_default_of_later_stages(toy, few):
    folder, flags = few
    common = ["--name", "n", "--experiment", folder, "--voc12_root", toy]
    out = prints("choose.py", *flags)
    assert "cam   100.0 ± 0.0" in out and "4 folds" in out and "best.pth: not there" in out
    chosen, about = read_chosen(Experiment(folder, "n"))
    assert chosen["threshold"] == 0.29 and (chosen["low"], chosen["high"]) == (2, 8) and about.startswith("4 masks of ")
    assert chosen["sxy_side"] == 500 and chosen["alphas"] == [2, chosen["dup"], 8]

    score = prints("evaluation.py", *common, "--task", "cam", "--dict_dir", "dict")
    assert f"chose on {about}: --threshold 0.29" in score
    kfold = prints("evaluation.py", *common, "--task", "cam", "--dict_dir", "dict", "--kfold", 2)
    assert "chose on" not in kfold
    released = prints("evaluation.py", *common, "--task", "cam", "--dict_dir", "dict", "--thresholds", 0.1, 0.34)
    assert "chose on" not in released and "the best of 25" in released  # given, though it is the default

    infer = [*common, "--num_workers", 0, "--crf_workers", 1, "--crf", "--png"]
    out = prints("infer.py", *infer)
    assert f"--alphas 2 {chosen['dup']} 8 --sxy 40" in out
    crf, png = folder / "n/crf", folder / "n/crf_png" / f"{chosen['dup']:02d}"
    assert json.loads((crf / "02/run.json").read_text())["settings"]["sxy"] == 40
    for image_id in read_list(toy / "train.txt"):
        labels = open_mask(png / f"{image_id}.png", 21)
        assert np.array_equal(labels, best_labels(read_scores(crf / png.name / f"{image_id}.npy")))
    assert "mIoU" in prints("evaluation.py", *common, "--task", "png", "--dict_dir", f"crf_png/{png.name}")
    out = prints("infer.py", *infer[:-1], "--alphas", 4)
    assert "--alphas" not in out.split("infer.py:")[0] and (crf / "04").is_dir()  # a flag that is given wins


def test_refinement_without_pydensecrf(toy, few, tmp_path):
    """--refine par is chosen for, is the default of infer.py then, and says in its results that it was this."""
    folder, flags = few
    out = prints("choose.py", *flags, "--refine", "par")
    chosen, about = read_chosen(Experiment(folder, "n"))
    assert chosen["refine"] == "par" and "sxy" not in chosen and "  par " in out
    blocked = tmp_path / "blocked/pydensecrf"
    blocked.mkdir(parents=True)
    (blocked / "__init__.py").write_text("raise ImportError('blocked')")
    infer = ["--name", "n", "--experiment", folder, "--voc12_root", toy, "--num_workers", 0, "--crf", "--png", "2_8"]
    done = run_script("infer.py", *infer, env={"PYTHONPATH": str(blocked.parent)})
    assert done.returncode == 0, done.stderr
    assert f"--alphas 2 {chosen['dup']} 8 --refine par" in done.stdout
    settings = json.loads((folder / "n/crf/02/run.json").read_text())["settings"]
    assert settings["refine"] == "par" and "sxy" not in settings
    titles = {stage.name: stage.title for stage in find_stages(folder / "n")}
    assert titles["crf/02"] == titles["crf/08"] == "PAR"
    image_id = read_list(toy / "train.txt")[0]
    maps, photo = read_scores(folder / "n/dict" / f"{image_id}.npy"), open_image(image_path(toy, image_id))
    expected = dict(par_of_large(np.array(photo), maps, [2, 8]))
    first, second = (read_scores(folder / "n/crf" / name / f"{image_id}.npy") for name in ("02", "08"))
    assert all(np.allclose(first[k], expected[2][k], atol=1e-6) for k in expected[2])
    same = best_labels(first) == best_labels(second)
    found = open_mask(folder / "n/crf_png/02_08" / f"{image_id}.png", 21)
    assert np.array_equal(found, np.where(same, best_labels(first), 255))
    done = run_script("infer.py", *infer, "--refine", "crf", env={"PYTHONPATH": str(blocked.parent)})
    assert done.returncode == 2 and "or give --refine par" in done.stderr


def test_how_many_masks_are_enough(toy, few):
    folder, flags = few
    out = prints("choose.py", *flags, "--curve", 1, 3)
    kept = json.loads((folder / "n/curve.json").read_text())
    assert [one["masks"] for one in kept["curve"]] == [1, 3] and not (folder / "n/settings.json").exists()
    assert kept["curve"][1]["cam"] == {"miou": 100.0, "std": 0.0, "setting": 0.29, "share": 20}
    assert "20 of 20" in out and f"wrote {folder / 'n/curve.json'}" in out
    refused("choose.py", *flags, "--curve", 4, says=["--curve 4", "has 4 masks"])


def test_the_power_of_the_walk_once_its_network_is_there(toy, few):
    folder, flags = few
    place = Experiment(folder, "n").affinity((2, 8, 2)), Experiment(folder, "n").affinity((2, 8, 8))
    for one in place:
        one.folder.mkdir(parents=True)
        save_weights(AffinityNet(ResNet38d(0.0625)), one.best)
    out = prints("choose.py", *flags, "--width", 0.0625, "--betas", 2, 4, "--device", "cpu")
    chosen, _ = read_chosen(Experiment(folder, "n"))
    assert chosen["beta"] in (2, 4) and "  walk " in out and "next: python infer_aff.py" in out
    walk = ["--name", "n", "--experiment", folder, "--voc12_root", toy, "--width", 0.0625, "--num_workers", 0]
    out = prints("infer_aff.py", *walk, "--device", "cpu", "--train_list", flags[7], "--crf_workers", 1)
    assert f"--dup {chosen['dup']} --beta {chosen['beta']} --sxy 40.0 --srgb 5.0 --sxy_side 500" in out


def test_what_cannot_be_chosen_from(toy, few, tmp_path):
    folder, flags = few
    lists = tmp_path / "few.txt"
    first = read_list(lists)[0]
    (folder / "n/dict" / f"{first}.npy").unlink()
    says = [f"dict: nothing for 1 of 4 images of {lists} (first {first})", "run python infer.py"]
    refused("choose.py", *flags, says=says)
    lists.write_text(first)
    refused("choose.py", *flags, says="one mask")
    empty = tmp_path / "empty"
    shutil.copytree(toy, empty)
    others = read_list(toy / "train.txt")[1:3]
    lists.write_text("\n".join(others))
    for image_id, value in zip(others, (0, 255)):
        mask = empty / f"SegmentationClass/{image_id}.png"
        label_image(np.full_like(open_mask(mask, 21), value)).save(mask)
    refused("choose.py", *flags, "--voc12_root", empty, says="none of 2 masks shows a class")
    lists.write_text(f"{first}\nno_such_photograph\n")
    refused("choose.py", *flags, says="no_such_photograph")
    assert not (folder / "n/settings.json").exists()
    (folder / "n/settings.json").write_text(json.dumps({"chosen": {"low": "two"}}))
    walk = ["--name", "n", "--experiment", folder, "--voc12_root", toy]
    refused("infer_aff.py", *walk, says=["settings.json: low is 'two'", "run choose.py again"])
