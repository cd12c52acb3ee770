"""COCO's annotations: labels, masks from objects' outlines or from COCO-Stuff's maps, read with pycocotools."""

import contextlib
import io
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tool.io.files import UserError
from tool.io.images import BACKGROUND, IGNORE, open_mask
from voc12.classes import check_class_names
from voc12.label_table import image_name

KEYS = {
    "images": {"id": int, "file_name": str, "height": int, "width": int},
    "annotations": {"id": int, "image_id": int, "category_id": int},
    "categories": {"id": int, "name": str},
}
# of annotations, and what they are where a file lacks them: labels need none of these
OPTIONAL = {"iscrowd": (int, 0), "area": ((int, float), 0), "segmentation": ((list, dict), []), "bbox": (list, [])}


def read_instances(path):
    """An instances_*.json as pycocotools' COCO; UserError where it is missing, cut off, or lacks what is read here."""
    from pycocotools.coco import COCO

    try:
        data = json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; --download fetches it, or check --coco") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: no JSON, or cut off; fetch it again") from None
    for part, keys in KEYS.items():
        if not isinstance(data, dict) or not isinstance(data.get(part), list):
            raise UserError(f"{path}: lacks the key {part!r}; --coco takes COCO's instances_*.json")
        for k, entry in enumerate(data[part]):
            for key, kind in keys.items():
                if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
                    raise UserError(f"{path}: {part}[{k}] lacks the key {key!r}, or it is of another type")
    for k, entry in enumerate(data["annotations"]):
        for key, (kind, default) in OPTIONAL.items():
            if entry.get(key) is None:
                entry[key] = default
            elif not isinstance(entry[key], kind):
                raise UserError(f"{path}: annotations[{k}]: the key {key!r} is of another type")
    for entry in data["images"]:
        entry["file_name"] = image_name(path, entry["file_name"])
    if not all(entry["height"] > 0 and entry["width"] > 0 for entry in data["images"]):
        raise UserError(f"{path}: has an image without any pixels; fetch it again")
    coco = COCO()
    coco.dataset = data
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    for entry in data["annotations"]:
        if entry["image_id"] not in coco.imgs or entry["category_id"] not in coco.cats:
            raise UserError(f"{path}: annotation {entry['id']} is of an image or a category that is not listed")
    return coco


def class_index(coco):
    """{category id: class index}: the categories in the order of their ids, which have gaps."""
    return {category: k for k, category in enumerate(sorted(coco.cats))}


class Split(NamedTuple):
    """What one JSON says of the images with an object, by file name in the order of image ids; total: of all images."""

    classes: tuple
    labels: dict  # class indices, sorted
    sizes: dict  # (w, h)
    total: int


def read_split(path):
    """The Split of an instances_*.json; UserError as `read_instances`."""
    coco = read_instances(path)
    classes = check_class_names([entry["name"].strip() for _, entry in sorted(coco.cats.items())], path)
    labels, sizes = {}, {}
    for image, indices in image_labels(coco).items():
        entry = coco.imgs[image]
        if entry["file_name"] in labels:
            raise UserError(f"{path}: two images are called {entry['file_name']}; fetch it again")
        labels[entry["file_name"]], sizes[entry["file_name"]] = indices, (entry["width"], entry["height"])
    return Split(classes, labels, sizes, len(coco.imgs))


def image_labels(coco):
    """{image id: sorted class indices} of the images with an object; crowds are none."""
    index, labels = class_index(coco), {}
    for entry in coco.dataset["annotations"]:
        if not entry["iscrowd"]:
            labels.setdefault(entry["image_id"], set()).add(index[entry["category_id"]])
    return {image: tuple(sorted(indices)) for image, indices in sorted(labels.items())}


def check_outline(outline, size):
    """ValueError where an outline is none of an image of `size` (h, w): the C code of pycocotools trusts it."""
    if isinstance(outline, dict):
        counts = outline.get("counts")
        if not isinstance(counts, list):
            raise ValueError("a compressed run-length code, which COCO's own annotations never have")
        if outline.get("size") != list(size) or min(counts, default=-1) < 0 or sum(counts) != size[0] * size[1]:
            raise ValueError("a run-length code of another size")
    else:
        for points in outline:
            values = np.asarray(points, np.float64)
            if values.ndim != 1 or len(values) < 4 or not (np.abs(values) <= 2 * max(size)).all():
                raise ValueError("a polygon far out of the image, or without points")


def instance_mask(coco, image, origin):
    """H x W uint8 of an image: the objects from the largest to the smallest, so that a small one stays visible.

    Crowd regions are 255 where no object is, and so is the box of an object without an outline, or, without a box,
    all that no outline covers: what is there is not known.
    """
    size, index = (image["height"], image["width"]), class_index(coco)
    mask, unknown = np.full(size, BACKGROUND, np.uint8), np.zeros(size, bool)
    for entry in sorted(coco.imgToAnns[image["id"]], key=lambda entry: (not entry["iscrowd"], -entry["area"])):
        if not entry["segmentation"]:
            unknown[box_slices(entry["bbox"])] = True
            continue
        try:
            check_outline(entry["segmentation"], size)
            inside = coco.annToMask(entry) > 0
        except Exception as error:  # pycocotools has no errors of its own
            raise UserError(f"{origin}: annotation {entry['id']}: {error}; fetch it again") from None
        mask[inside] = IGNORE if entry["iscrowd"] else index[entry["category_id"]] + 1
    mask[unknown & (mask == BACKGROUND)] = IGNORE
    return mask


def box_slices(box):
    """Rows and columns of a `bbox` (x, y, width, height), rounded outwards; everything where there is none."""
    try:
        x, y, width, height = np.clip(np.asarray(box, np.float64), 0, 1e6)
        return np.s_[int(y) : int(np.ceil(y + height)), int(x) : int(np.ceil(x + width))]
    except (TypeError, ValueError):  # none, texts, or NaN
        return np.s_[:, :]


def stuff_mask(coco, image, folder):
    """H x W uint8 of an image, from COCO-Stuff's map of it: things alone, the rest background.

    The maps hold category id - 1 for things, further ids for stuff, 255 where no stuff was labelled. They come in the
    parts of 2017, which are the same images as those of 2014.
    """
    table = np.full(256, BACKGROUND, np.uint8)
    for category, k in class_index(coco).items():
        if 1 <= category <= 255:
            table[category - 1] = k + 1
    paths = [folder / f"{part}2017" / f"{image['id']:012d}.png" for part in ("train", "val")]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise UserError(f"{paths[0]}: not there, nor in val2017; --download fetches COCO-Stuff's pixel maps")
    mask = table[open_mask(path, num_labels=256)]
    if mask.shape != (image["height"], image["width"]):
        raise UserError(f"{path}: not of the size of {image['file_name']}; fetch it again")
    return mask
