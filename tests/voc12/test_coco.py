"""COCO's annotations become masks and labels."""

import json

import numpy as np
from voc12.coco import instance_mask, read_instances


def coco_file(path, *annotations):
    data = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 6, "width": 8}],
        "annotations": [{"id": k, "image_id": 1, "category_id": 3} | more for k, more in enumerate(annotations)],
        "categories": [{"id": 3, "name": "cat"}],
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
