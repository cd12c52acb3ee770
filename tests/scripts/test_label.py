"""label.py: photographs in nested folders and a table, to masks, a page and the files of other tools."""

import json
import shutil
import zipfile

import numpy as np
import pytest
import torch
from conftest import load_script, prints, refused, run_here
from pycocotools.coco import COCO

from engine.children import Stages
from tool.io.files import read_json, read_list
from tool.io.images import open_mask
from voc12.classes import VOC_CLASSES
from voc12.labels import load_labels


@pytest.fixture(scope="module")
def photos(toy, tmp_path_factory):
    """The dozen in two folders, one in the other, and a table of their labels -> (folder, table)."""
    root = tmp_path_factory.mktemp("mine")
    rows = ["image,labels"]
    ids = read_list(toy / "train.txt")
    for k, (image_id, label) in enumerate(load_labels(ids, toy, VOC_CLASSES, None).items()):
        name = f"{'deep/er' if k % 2 else 'deep'}/{image_id}.jpg"
        (root / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(toy / f"JPEGImages/{image_id}.jpg", root / "photos" / name)
        rows.append(f"{name},{';'.join(VOC_CLASSES[c] for c in np.nonzero(np.asarray(label))[0])}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root / "photos", root / "labels.csv"


@pytest.fixture
def here(monkeypatch):
    """Scripts run in this process, each as a user runs it -> their names, as they come."""
    ran = []

    def run(stages, stage, script, *flags):
        ran.append(script)
        code, errors = run_here(script, *flags)
        assert code == 0, errors[-2000:]

    monkeypatch.setattr(Stages, "run", run)
    return ran


def flags(photos, out, *more):
    return ["--images", photos[0], "--labels", photos[1], "--out", out, *more]


def test_from_photographs_to_masks_a_page_and_other_tools(photos, tmp_path, here):
    torch.set_num_threads(1)
    out = tmp_path / "set"
    words = flags(photos, out, "--steps", 2, "--export", "coco", "cvat", "yolo", "labelstudio")
    printed = prints("label.py", *words)
    masks = next((out / "run/seg_crf").iterdir())
    assert f"masks: {masks}\n" in printed and (out / "run/report/index.html").is_file()
    assert f"infer_seg.py --name run --experiment {out} --images DIR --out DIR --crf" in printed
    names = {path.stem for path in masks.glob("*.png")}
    assert len(names) == 12 and all(name.startswith("deep__") for name in names)
    coco = COCO(str(out / "export/coco.json"))
    for image in coco.loadImgs(coco.getImgIds()):
        ids = open_mask(masks / f"{image['file_name'].rsplit('.')[0]}.png", 21)
        drawn = np.zeros_like(ids)
        for one in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
            drawn[coco.annToMask(one) > 0] = one["category_id"]
        assert np.array_equal(drawn, ids)
    with zipfile.ZipFile(out / "export/cvat.zip") as zipped:
        assert sum(name.startswith("SegmentationClass/") for name in zipped.namelist()) == 12
    assert len(json.loads((out / "export/labelstudio.json").read_text())) == 12
    assert (out / "export/yolo/data.yaml").is_file()
    weights = next((out / "run/ckpt").glob("*net_main.pth")).stat().st_mtime_ns
    here.clear()
    prints("label.py", *words[:8])  # goes on where it was: at the end
    assert "voc12/make_dataset.py" not in here and "voc12/export_labels.py" not in here
    assert next((out / "run/ckpt").glob("*net_main.pth")).stat().st_mtime_ns == weights
    (out / "label.json").write_text(json.dumps(read_json(out / "label.json") | {"table": "another"}))
    refused("label.py", *words, says=[str(out), "other photographs, labels or masks"])


def test_steps_and_sizes_follow_the_set(photos, tmp_path, monkeypatch):
    label = load_script("label.py")
    monkeypatch.setattr(label, "seconds_a_step", lambda train, epochs: 0.5)
    parse = label.get_args_parser().parse_args
    base = [str(word) for word in flags(photos, tmp_path)]
    assert label.choose_steps(parse(base), [], 60) == (480, ["--epochs", 69, "--T", 34])
    assert label.choose_steps(parse(base), [], 10_000) == (1200, ["--epochs", 2, "--T", 1])
    assert label.choose_steps(parse([*base, "--minutes", "20"]), [], 60)[0] == 720  # 0.3 of 1,200 s
    assert label.choose_steps(parse([*base, "--minutes", "1"]), [], 60)[0] == 120
    paths = sorted(photos[0].rglob("*.jpg"))
    assert label.fit_views(paths) == ([38, 70], 96)


def test_bad_input(photos, tmp_path):
    refused("label.py", "--images", photos[0], "--out", tmp_path / "x", says="--labels CSV or --by_folder")
    refused("label.py", *flags(photos, tmp_path / "x", "--steps", 3, "--minutes", 2), says="give one of them")
    refused("label.py", "--images", tmp_path / "none", "--by_folder", "--out", tmp_path / "x", says="none")
    assert not (tmp_path / "x").exists()
