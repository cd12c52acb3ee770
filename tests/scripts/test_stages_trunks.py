"""Other trunks and the ablations of the paper through the scripts, and what of them an experiment remembers."""

import json

import pytest
from conftest import refused, run_here, train_flags

from tool.io.torch_files import read_torch
from voc12.transforms import IMAGENET, Look, normalise, resize

TRUNK = "timm:test_efficientnet"


def run(script, *args):
    """A script that must succeed -> its stderr."""
    code, errors = run_here(script, *args)
    assert code == 0, errors[-2000:]
    return errors


def without_width(flags):
    at = flags.index("--width")
    return [*flags[:at], *flags[at + 2 :]]


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory):
    """Experiment "n" on a timm trunk of 8 pixels a cell, pooled by averages -> (flags that name it, its folder)."""
    folder = tmp_path_factory.mktemp("trunks")
    name = ["--name", "n", "--experiment", folder]
    few = ["--epochs", 2, "--T", 1, "--trunk", TRUNK, "--output_stride", 8, "--pool", "avg", "--val_list", "none"]
    run("train.py", *name, *without_width(train_flags(toy)), *few)
    return name, folder / "n"


def test_all_stages_on_the_trunk_that_the_experiment_remembers(trained):
    name, folder = trained
    settings = json.loads((folder / "settings.json").read_text())
    assert (settings["trunk"], settings["output_stride"], settings["pool"]) == (TRUNK, 8, "avg")
    state = read_torch(folder / "ckpt" / "001net_main.pth")
    assert any(key.startswith("trunk.model.") for key in state)
    assert not any("gconv" in key for key in state)
    cpu = ["--device", "cpu", "--num_workers", 0]
    run("infer.py", *name, *cpu, "--load_epo", 1, "--dict", "--crf", "--alphas", 2, 4, 9, "--scales", 1)
    powers = ["--low", 2, "--high", 9, "--dup", 4]
    small = ["--epochs", 1, "--batch_size", 4, "--crop_size", 48, "--select", "last"]
    run("train_aff.py", *name, *cpu, *powers, *small)  # starts from the classifier's trunk
    weights = json.loads((folder / "ckpt_aff" / "aff020904" / "run.json").read_text())["weights"]
    assert weights["path"].endswith("ckpt/001net_main.pth")
    run("infer_aff.py", *name, *cpu, *powers)
    run("evaluation.py", *name, "--task", "png", "--dict_dir", "rw/02_0904", "--json", folder / "score.json")
    assert len(list((folder / "rw" / "02_0904").glob("*.png"))) == 12


@pytest.mark.parametrize(
    ("flag", "value", "stored"),
    [("--trunk", "resnet38d", TRUNK), ("--output_stride", 16, "8"), ("--pool", "gap", "avg")],
)
def test_another_network_than_the_experiments_is_refused(trained, flag, value, stored):
    name, _ = trained
    refused("infer.py", *name, "--load_epo", 1, "--dict", flag, value, says=[flag, str(value), stored, "settings.json"])


@pytest.mark.parametrize(
    "flags",
    [
        ["--pool", "gap", "--attract", "rigid", "--no-repel"],
        ["--pool", "16", "--attract", "none"],
        ["--pool", "gpp_inverse", "--metric", "cam"],
    ],
    ids=" ".join,
)
def test_ablations_train(toy, tmp_path, flags):
    few = ["--epochs", 2, "--T", 1, "--val_list", "none"]
    run("train.py", "--name", "a", "--experiment", tmp_path, *train_flags(toy), *few, *flags)
    last = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()][-1]
    assert last["total"] == pytest.approx(last["cls"] + last["attract"] + last["repel"], abs=1e-5)
    assert (last["attract"] == 0) == ("none" in flags)
    assert last["repel"] == 0 or "--no-repel" not in flags


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--trunk", "timm:resnet51"], ["resnet51", "resnet50"]),
        (["--trunk", "vgg"], ["vgg", "timm:NAME"]),
        (["--output_stride", 16], ["output stride 16", "resnet38d"]),
        (["--attract", "rigid", "--T", 4], ["--attract rigid", "nothing is erased"]),
        (["--pool", "3"], ["--pool"]),
        (["--pretrained", "timm"], ["timm has no weights of resnet38d"]),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else value,
)
def test_bad_trunks_and_ablations(toy, tmp_path, flags, says):
    narrow = train_flags(toy) if flags[0] != "--trunk" else without_width(train_flags(toy))
    refused("train.py", "--name", "b", "--experiment", tmp_path, *narrow, *flags, says=says)
    assert not list(tmp_path.rglob("*.pth"))


def test_images_look_as_the_trunk_wants_them():
    import numpy as np
    from PIL import Image

    ramp = Image.fromarray(np.tile(np.arange(8, dtype=np.uint8) * 30, (8, 1))).convert("RGB")
    half = Look((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "nearest")
    assert normalise(ramp, half)[0, 0].tolist() == pytest.approx([2 * 30 * k / 255 - 1 for k in range(8)])
    assert np.asarray(resize(ramp, (4, 4), half))[0, :, 0].tolist() == [30, 90, 150, 210]
    assert np.asarray(resize(ramp, (4, 4), IMAGENET))[0, 1, 0] not in (30, 60, 90)
