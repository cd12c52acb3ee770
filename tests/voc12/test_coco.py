"""COCO's annotations become masks and labels."""

import json

import numpy as np
import pytest
from PIL import Image

from tool.io.files import UserError
from voc12.coco import box_slices, check_outline, instance_mask, read_instances, read_split, stuff_mask


def coco_file(path, *annotations, categories=None):
    data = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 6, "width": 8}],
        "annotations": [{"id": k, "image_id": 1, "category_id": 3} | more for k, more in enumerate(annotations)],
        "categories": categories or [{"id": 3, "name": "cat"}],
    }
    path.write_text(json.dumps(data))
    return read_instances(path)


def test_coco_without_crowds_and_outlines(tmp_path):
    """A box without an outline is 255 where no outline is; without a box nothing else is known."""
    outline = {"segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]]}
    coco = coco_file(tmp_path / "x.json", outline, {"segmentation": [], "bbox": [1, 1, 3.5, 2]})
    mask = instance_mask(coco, coco.imgs[1], "x")
    by_hand = np.zeros((6, 8), int)
    by_hand[1:3, 1:5] = 255
    by_hand[:2, :2] = 1
    assert np.array_equal(mask, by_hand)
    coco = coco_file(tmp_path / "x.json", outline, {"segmentation": None, "iscrowd": 0})
    mask = instance_mask(coco, coco.imgs[1], "x")
    assert (mask[:2, :2] == 1).all() and (mask == 255).sum() == 48 - 4


OUTLINE = [[1, 1, 4, 1, 4, 4, 1, 4]]  # x and y from 1 to 4


def test_labels_of_a_file_are_those_of_objects_and_crowds_are_none(tmp_path):
    data = {
        "images": [{"id": k, "file_name": f"{k}.jpg", "height": 6, "width": 8} for k in (2, 1, 3, 4)],
        "annotations": [
            {"id": 1, "image_id": 2, "category_id": 9},
            {"id": 2, "image_id": 2, "category_id": 4},
            {"id": 3, "image_id": 2, "category_id": 9},
            {"id": 4, "image_id": 1, "category_id": 4, "iscrowd": 1},
            {"id": 5, "image_id": 3, "category_id": 9},
        ],
        "categories": [{"id": 9, "name": " dog "}, {"id": 4, "name": "cat"}],
    }
    (tmp_path / "x.json").write_text(json.dumps(data))
    split = read_split(tmp_path / "x.json")
    assert split.classes == ("cat", "dog")  # in the order of the categories' ids
    assert split.labels == {"2.jpg": (0, 1), "3.jpg": (1,)} and split.sizes["2.jpg"] == (8, 6) and split.total == 4
    data["images"][1]["file_name"] = "2.jpg"
    data["annotations"][3]["iscrowd"] = 0
    (tmp_path / "x.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match="two images are called 2.jpg"):
        read_split(tmp_path / "x.json")


def test_small_objects_lie_on_large_ones_and_crowds_below_all(tmp_path):
    small = {"segmentation": [[2, 2, 4, 2, 4, 4, 2, 4]], "area": 4, "category_id": 4}
    large = {"segmentation": [[0, 0, 5, 0, 5, 5, 0, 5]], "area": 25}
    crowd = {"segmentation": {"counts": [0, 6 * 8], "size": [6, 8]}, "iscrowd": 1, "area": 48}
    classes = [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}]
    by_hand = np.full((6, 8), 255)
    by_hand[:5, :5] = 1
    by_hand[2:4, 2:4] = 2
    for order in ([small, large, crowd], [crowd, large, small]):
        coco = coco_file(tmp_path / "x.json", *order, categories=classes)
        assert np.array_equal(instance_mask(coco, coco.imgs[1], "x"), by_hand)


@pytest.mark.parametrize(
    ("outline", "says"),
    [
        ([[1, 1, 4, 1]], None),
        ([[1, 1]], "without points"),
        ([[1, 1, 4, 1, 99, 4]], "far out of the image"),
        ({"counts": [48], "size": [6, 8]}, None),
        ({"counts": [40], "size": [6, 8]}, "another size"),
        ({"counts": [-1, 49], "size": [6, 8]}, "another size"),
        ({"counts": [48], "size": [8, 6]}, "another size"),
        ({"counts": "x9", "size": [6, 8]}, "compressed"),
    ],
)
def test_outlines_that_code_in_c_must_not_see(outline, says):
    if says is None:
        check_outline(outline, (6, 8))
    else:
        with pytest.raises(ValueError, match=says):
            check_outline(outline, (6, 8))


def test_a_broken_outline_names_its_annotation(tmp_path):
    coco = coco_file(tmp_path / "x.json", {"segmentation": OUTLINE}, {"segmentation": [[1, 1]]})
    with pytest.raises(UserError, match=r"x.json: annotation 1: .*without points; fetch it again"):
        instance_mask(coco, coco.imgs[1], "x.json")


def test_boxes_are_rounded_outwards():
    cells = np.zeros((6, 8), bool)
    boxes = (([1.5, 2, 2, 1.2], (2, 4), (1, 4)), ([0, 0, 99, 1], (0, 1), (0, 8)), (None, (0, 6), (0, 8)))
    for box, rows, columns in boxes:
        there = cells.copy()
        there[box_slices(box)] = True
        by_hand = cells.copy()
        by_hand[slice(*rows), slice(*columns)] = True
        assert np.array_equal(there, by_hand)


@pytest.mark.parametrize("part", ["train", "val"])
def test_things_of_stuff_maps_and_nothing_else(tmp_path, part):
    """A map has category - 1: 2 is our cat, the others are background, 255 too."""
    coco, folder = coco_file(tmp_path / "x.json"), tmp_path / f"{part}2017"
    folder.mkdir()
    values = np.zeros((6, 8), np.uint8)
    values[0, :4] = [2, 3, 100, 255]
    Image.fromarray(values).save(folder / "000000000001.png")
    mask = stuff_mask(coco, coco.imgs[1], tmp_path)
    assert mask[0].tolist() == [1] + [0] * 7 and not mask[1:].any()
    Image.fromarray(values.T.copy()).save(folder / "000000000001.png")
    with pytest.raises(UserError, match="not of the size of a.jpg"):
        stuff_mask(coco, coco.imgs[1], tmp_path)
    (folder / "000000000001.png").unlink()
    with pytest.raises(UserError, match="train2017/000000000001.png: not there, nor in val2017"):
        stuff_mask(coco, coco.imgs[1], tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "no JSON, or cut off"),
        ("[]", "lacks the key 'images'"),
        ('{"images": [{"id": "1"}], "annotations": [], "categories": []}', "images.0. lacks the key 'id'"),
    ],
)
def test_files_that_are_none(tmp_path, text, says):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=says):
        read_instances(tmp_path / "x.json")
    with pytest.raises(UserError, match="no such file; --download"):
        read_instances(tmp_path / "y.json")
