"""docs/house.md: each diff is applied to a copy of the repository, and what it adds then trains and labels there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, train_flags
from PIL import Image

from tool.io.images import IGNORE, image_size
from tool.io.torch_files import read_torch

PAGE, README = ((ROOT / name).read_text(encoding="utf-8") for name in ("docs/house.md", "README.md"))
DIFFS = {re.findall(r"^\+\+\+ b/(\S+)", diff, re.M)[-1]: diff for diff in re.findall(r"```diff\n(.*?)```", PAGE, re.S)}
RUN = """
import importlib, json, sys
for script, *args in json.loads(sys.argv[1]):
    module = importlib.import_module(script)
    module.run_script(module.main, module.get_args_parser(), args)
"""


def copied(folder):
    """The code and its configuration."""
    folder.mkdir()
    for path in [*ROOT.glob("*.py"), ROOT / "pyproject.toml"]:
        shutil.copy(path, folder)
    for name in ("engine", "models", "tool", "voc12"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.npy"))
    return folder


def apply(folder, diff):
    alone = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}  # whatever repository is around the folder
    result = subprocess.run(["git", "apply"], cwd=folder, input=diff, text=True, capture_output=True, env=alone)
    assert result.returncode == 0, result.stderr


def run(folder, code, *args):
    """Python code in the copy -> what it prints."""
    result = subprocess.run([sys.executable, "-c", code, *args], cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def scripts(*commands):
    """Scripts by their modules' names, for `run`."""
    return RUN, json.dumps([[str(word) for word in command] for command in commands])


def two_epochs(toy):
    return [*train_flags(toy), "--name", "n", "--epochs", 2, "--T", 1, "--val_list", "none"]


def epochs(folder):
    return [json.loads(line) for line in (folder / "experiment" / "n" / "log.jsonl").read_text().splitlines()]


@pytest.fixture
def house(tmp_path, request):
    """The copy with the diff of the page that ends in the file of the parameter."""
    folder = copied(tmp_path / "house")
    apply(folder, DIFFS[request.param])
    return folder


def with_diff(path):
    return pytest.mark.parametrize("house", [path], indirect=True)


@with_diff("models/triplet.py")
def test_a_loss_term_is_one_file(house, toy):
    code, commands = scripts(["train", *two_epochs(toy)])
    weigh = "from models.triplet import TripletErasing as T; print(T().weights['area'], T(weights=(1, 2)).weights)"
    printed = run(house, f"{code}\n{weigh}", commands)
    assert printed.splitlines()[-1] == "0.05 {'cls': 1, 'attract': 2, 'repel': 0.15, 'area': 0.05}"
    warm_up, last = epochs(house)
    assert warm_up["area"] == 0 and 0 < last["area"] < 0.05  # a mean of values in [0, 1], times its weight
    assert last["total"] == pytest.approx(sum(last[term] for term in ("cls", "attract", "repel", "area")), abs=1e-5)
    assert f"area {last['area']:.4f}" in (house / "experiment" / "n" / "log.txt").read_text()


@with_diff("models/trunks.py")
def test_a_trunk_is_a_file_and_a_line(house, toy):
    code, commands = scripts(["train", *two_epochs(toy), "--trunk", "plain"])
    stand_on_it = (
        "import torch; from models.affinity import AffinityNet; from models.deeplab import make_segmentation_net\n"
        "from models.trunks import make_trunk\n"
        "image = torch.rand(1, 3, 90, 91)\n"
        "print(*AffinityNet(make_trunk('plain', 0.25)).features(image).shape)\n"
        "print(*make_segmentation_net('deeplab_plain', 5, 0.25)(image).shape)"
    )
    printed = run(house, f"{code}\n{stand_on_it}", commands)
    assert printed.splitlines()[-2:] == ["1 448 12 12", "1 5 12 12"]
    first, last = (read_torch(house / "experiment" / "n" / "ckpt" / f"00{k}net_main.pth") for k in (0, 1))
    name = "trunk.layers.0.0.weight"
    assert first[name].shape == (4, 3, 3, 3) and (first[name] != last[name]).any()
    assert json.loads((house / "experiment" / "n" / "settings.json").read_text())["trunk"] == "plain"


@with_diff("models/psa.py")
def test_a_cam_method_is_a_file_and_a_line(house, toy):
    common = ["--model", "psa", "--name", "n", "--width", 0.0625, "--device", "cpu", "--num_workers", 0]
    labels = ["infer", *common, "--load_epo", 1, "--dict", "--scales", 1]
    run(house, *scripts(["train", *two_epochs(toy), *common[:2], "--attract", "none", "--no-repel"], labels))
    assert set(read_torch(house / "experiment/n/ckpt/001net_main.pth")) >= {"fc8.weight", "conv1a.weight"}
    maps = {p.stem: np.load(p, allow_pickle=True).item() for p in (house / "experiment/n/dict").glob("*.npy")}
    assert len(maps) == 12
    for image_id, cams in maps.items():
        size = image_size(toy / "JPEGImages" / f"{image_id}.jpg")[::-1]
        assert cams and all(cam.shape == size and 0 <= cam.min() and cam.max() <= 1 for cam in cams.values())
    assert max(cam.max() for cams in maps.values() for cam in cams.values()) > 0.9


def draw_pets(folder):
    """Six photographs with trimaps, a cat and a dog in turn."""
    rng = np.random.default_rng(0)
    for name in ("images", "annotations/trimaps"):
        (folder / name).mkdir(parents=True)
    lines = [f"Breed_{k} 1 {1 + k % 2} 1\n" for k in range(6)]
    (folder / "annotations" / "trainval.txt").write_text("#Image CLASS-ID SPECIES BREED ID\n" + "".join(lines[:4]))
    (folder / "annotations" / "test.txt").write_text("".join(lines[4:]))
    trimap = np.full((40, 50), 2, np.uint8)
    trimap[9:31, 9:31], trimap[10:30, 10:30] = 3, 1
    for k in range(6):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / "images" / f"Breed_{k}.jpg")
        Image.fromarray(trimap).save(folder / "annotations" / "trimaps" / f"Breed_{k}.png")
    return trimap


@with_diff("voc12/make_pets.py")
def test_a_data_set_is_a_script(house, tmp_path):
    trimap = draw_pets(tmp_path / "pets")
    make = ["voc12.make_pets", "--pets", tmp_path / "pets", "--out", tmp_path / "set"]
    lists = ["--train_list", "train", "--val_list", "val", "--batch_size", 2, "--batch_size_triplet", 4]
    flags = [*two_epochs(tmp_path / "set"), *lists]
    run(house, *scripts(make, ["train", *flags]))
    masks = [np.asarray(Image.open(tmp_path / "set" / "SegmentationClass" / f"Breed_{k}.png")) for k in (0, 1)]
    for k, mask in enumerate(masks):
        assert (mask[trimap == 1] == k + 1).all() and (mask[trimap == 3] == IGNORE).all() and mask[0, 0] == 0
    first, last = epochs(house)
    assert first["steps"] == 2 and np.isfinite(last["total"]) and "miou" in last


def test_all_of_them_together_pass_make_lint(tmp_path):
    folder = copied(tmp_path / "house")
    for diff in DIFFS.values():
        apply(folder, diff)
    assert len(DIFFS) == 4
    programs = Path(sys.executable).parent
    for command in (["ruff", "check"], ["ruff", "format", "--check"], ["lint-imports"]):
        if not (programs / command[0]).exists():
            pytest.skip(f"{command[0]} is not installed")
        done = subprocess.run([programs / command[0], *command[1:]], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_the_page_names_every_module_of_engine():
    table = PAGE.split("module of `engine/`")[1].split("\n\n")[0]
    named = re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines()[2:]))
    assert sorted(named) == sorted(path.stem for path in (ROOT / "engine").glob("[a-z]*.py"))


def test_the_reading_list_has_the_lines_of_its_files():
    rows = re.findall(r"^\| \d+ \| \[(\S+)\]\(\1\) \| (\d+) \|", README, re.M)
    assert len(rows) == len(set(rows)) == 10
    for name, stated in rows:
        lines = len((ROOT / name).read_text(encoding="utf-8").splitlines())
        assert abs(lines - int(stated)) <= max(3, lines // 10), f"{name} has {lines} lines, README.md says {stated}"
    total = int(re.search(r"\*\*([\d,]+) lines\*\*", README)[1].replace(",", ""))
    assert total == sum(int(stated) for _, stated in rows)
