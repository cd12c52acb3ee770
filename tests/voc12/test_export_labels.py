"""export_labels.py: what independent readers see in its files."""

import json
import zipfile
from pathlib import Path

import datumaro
import numpy as np
import pytest
import supervision
from conftest import prints, refused, run_here
from label_exports import COMPONENTS, EXPORT, MASKS, NAMES, SIZE, draw, export, export_flags
from label_studio import decode_brush
from label_studio_tools.core.label_config import parse_config
from pycocotools.coco import COCO

from tool.io.images import IGNORE, label_image
from voc12.label_writers import object_numbers, polygon_line

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools with numpy 2
IDS = {name: k for k, name in enumerate(NAMES, 1)} | {"ignored": IGNORE}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("exports"))


def test_pycocotools_and_supervision_read_coco(place, tmp_path):
    coco, whole = COCO(export(place, "coco")), COCO(export(place, "coco", out=tmp_path / "w.json", instances="class"))
    assert [category["name"] for category in coco.cats.values()] == [*NAMES, "ignored"]
    for number, image_id in enumerate(sorted(MASKS), 1):
        mask = np.zeros(SIZE, np.uint8)
        for entry in coco.imgToAnns[number]:
            mask[coco.annToMask(entry) > 0] = entry["category_id"]
        assert np.array_equal(mask, MASKS[image_id])
        found = [(e["category_id"], e["area"]) for e in coco.imgToAnns[number] if not e["iscrowd"]]
        assert sorted(found) == sorted(COMPONENTS[image_id])
        assert [e["category_id"] for e in whole.imgToAnns[number]] == np.setdiff1d(MASKS[image_id], [0]).tolist()
    assert coco.imgToAnns[2][0]["bbox"] == [5, 2, 4, 10]
    read = supervision.DetectionDataset.from_coco(str(place / "photos"), str(place / "coco/x.json"), force_masks=True)
    for path, _, found in read:
        if path.endswith("one.png"):
            areas = found.mask.sum((1, 2)).tolist()
            assert sorted(zip((found.class_id + 1).tolist(), areas)) == sorted(COMPONENTS["deep__one"])
    assert len(read) == 3


def test_supervision_reads_yolo(place):
    code, errors = run_here(EXPORT, *export_flags(place, "yolo"))
    assert code == 0 and "those of 1 of 4 objects are filled, 12 pixels" in errors
    assert "pixels of 255 in 1 masks count as background there" in errors
    folders = [str(place / "yolo/x" / name) for name in ("images/train", "labels/train", "data.yaml")]
    read = supervision.DetectionDataset.from_yolo(*folders, force_masks=True)
    assert read.classes == NAMES and len(read) == 3
    filled = {k: np.where(mask == IGNORE, 0, mask) for k, mask in MASKS.items()}
    filled["deep__one"][3:6, 3:7] = 1
    filled["deep__one"][4, 4] = 2  # its line comes after that of the object around it
    for path, _, found in read:
        mask = np.zeros(SIZE, np.uint8)
        for k, inside in zip(found.class_id, found.mask if len(found) else []):
            mask[inside] = k + 1
        assert np.array_equal(mask, filled[Path(path).stem])
    refused(EXPORT, *export_flags(place, "yolo"), says=["is a data set already", "--overwrite"])
    prints(EXPORT, *export_flags(place, "yolo"), "--overwrite")


def test_a_polygon_is_found_by_readers_that_round_or_cut_off():
    inside = np.zeros((12, 7), bool)  # sides whose parts have no short decimal fraction
    inside[2:5, 3:7] = True
    line, holes = polygon_line(3, inside)
    points = np.array(line.split()[1:], float).reshape(-1, 2) * (7, 12)
    corners = {(3, 2), (3, 4), (6, 2), (6, 4)}
    assert line.startswith("2 ") and holes == 0
    assert {tuple(p) for p in np.round(points).astype(int).tolist()} == corners
    assert {tuple(p) for p in points.astype(int).tolist()} == corners
    inside[2:5, 4:] = inside[3:] = False
    assert len(polygon_line(1, inside)[0].split()) == 7  # three points, of a single pixel too


def test_datumaro_reads_cvats_zip(place, tmp_path):
    with zipfile.ZipFile(export(place, "cvat")) as archive:
        archive.extractall(tmp_path)
    read = datumaro.Dataset.import_from(str(tmp_path), "voc_segmentation")
    names = [label.name for label in read.categories()[datumaro.AnnotationType.label]]
    assert {item.id for item in read} == {"deep/one", "my two", "three"}
    for item in read:
        image_id = item.id.replace("/", "__").replace(" ", "_")
        mask, found = np.zeros(SIZE, np.uint8), []
        for shape in item.annotations:
            k = IDS[names[shape.label]]
            mask[shape.image > 0] = k
            found += [(k, int(shape.image.sum()))] * (k != IGNORE)
        assert np.array_equal(mask, MASKS[image_id]) and sorted(found) == sorted(COMPONENTS[image_id])


def test_more_objects_than_colours_are_one_a_class():
    mask = np.zeros((40, 40), np.uint8)
    mask[::2, ::2] = 3  # 400 single pixels
    mask[1, 1] = IGNORE
    mask[39] = 5
    numbers, count = object_numbers(mask)
    assert count == 2 and np.array_equal(numbers, np.select([mask == 3, mask == 5, mask == IGNORE], [1, 2, IGNORE]))


def test_label_studio_reads_tasks_and_interface(place):
    tasks = json.loads(export(place, "labelstudio").read_text())
    interface = parse_config((place / "labelstudio/x.xml").read_text(encoding="utf-8"))["label"]
    assert (interface["type"], interface["to_name"]) == ("BrushLabels", ["image"])
    assert interface["labels"] == [*NAMES, "ignored"]
    addresses = [f"/data/local-files/?d={name}" for name in ("deep/one.png", "my%20two.jpg", "three.jpg")]
    assert [task["data"]["image"] for task in tasks] == addresses
    for task, image_id in zip(tasks, sorted(MASKS), strict=True):
        mask = np.zeros(SIZE, np.uint8)
        for region in task["predictions"][0]["result"]:
            assert (region["type"], region["from_name"], region["to_name"]) == ("brushlabels", "label", "image")
            size = region["original_height"], region["original_width"]
            alpha = np.reshape(decode_brush(region["value"]["rle"]), (*size, 4))[..., 3]
            mask[alpha > 0] = IDS[region["value"]["brushlabels"][0]]
        assert np.array_equal(mask, MASKS[image_id])


# ---------------------------------------------------------------- bad input


def one_label(folder, image):
    folder.mkdir()
    image.save(folder / "three.png")
    return folder


@pytest.mark.parametrize("kind", ["coco", "yolo", "cvat", "labelstudio"])
def test_labels_that_are_none_or_of_other_photographs(place, tmp_path, kind):
    flags = {"out": tmp_path / f"x{'' if kind == 'yolo' else '.zip' if kind == 'cvat' else '.json'}"}
    folder = one_label(tmp_path / "labels", label_image(np.zeros((9, 9), np.uint8)))
    said = "three.jpg: 20 x 14 pixels, but its mask has 9 x 9"
    refused(EXPORT, *export_flags(place, kind, labels=folder, **flags), says=said)
    label_image(np.full(SIZE, 3, np.uint8)).save(folder / "three.png")
    refused(EXPORT, *export_flags(place, kind, labels=folder, **flags), says="three.png: holds id 3")
    label_image(MASKS["three"]).convert("RGB").save(folder / "three.png")
    refused(EXPORT, *export_flags(place, kind, labels=folder, **flags), says="a mask of mode RGB")
    (folder / "three.png").rename(folder / "four.png")
    refused(EXPORT, *export_flags(place, kind, labels=folder, **flags), says="for 1 of 1 labels (four)")
    (folder / "four.png").unlink()
    refused(EXPORT, *export_flags(place, kind, labels=folder, **flags), says="labels: no label masks there")
    refused(EXPORT, *export_flags(place, kind, labels=folder / "no", **flags), says="labels/no: no such folder")
    assert [path.name for path in tmp_path.iterdir()] == ["labels"]


@pytest.mark.parametrize(
    ("kind", "name", "more", "says"),
    [
        ("cvat", "a:b", {}, "class 'a:b': names in CVAT's labelmap.txt have no ':'"),
        ("cvat", "#a", {}, "no '#' in front"),
        ("coco", "ignored", {}, "class 'ignored': is what 255 is called in coco"),
        ("coco", "a", {"out": "x.zip"}, "--out x.zip: coco is a .json file"),
        ("cvat", "a", {"instances": "class"}, "--instances class: is for --format coco"),
    ],
)
def test_names_and_flags_that_a_format_cannot_hold(place, tmp_path, kind, name, more, says):
    (tmp_path / "classes.txt").write_text(f"{name}\n")
    out = {"out": tmp_path / ("x.json" if kind == "coco" else "x.zip")}
    refused(EXPORT, *export_flags(place, kind, **{"classes": tmp_path / "classes.txt"} | out | more), says=says)
    assert [path.name for path in tmp_path.iterdir()] == ["classes.txt"]
