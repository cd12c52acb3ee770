"""COCO's annotations: what a JSON of instances says of its images, and their masks."""

import contextlib
import io
from collections import Counter
from typing import NamedTuple

import numpy as np
from PIL import Image

from tool.io.files import UserError, read_json
from tool.io.images import BACKGROUND, IGNORE, open_mask
from tool.io.rle import read_coco
from voc12.classes import check_class_names
from voc12.label_table import image_name

# keys of each part: type, and what it is where a file lacks it, for those that labels do not need
KEYS = {
    "images": {"id": (int,), "file_name": (str,), "height": (int,), "width": (int,)},
    "annotations": {"id": (int,), "image_id": (int,), "category_id": (int,)},
    "categories": {"id": (int,), "name": (str,)},
}
KEYS["annotations"] |= {"iscrowd": (int, 0), "area": (int | float, 0)}
KEYS["annotations"] |= {"segmentation": (list | dict, []), "bbox": (list, [])}


def read_instances(path):
    """An instances_*.json as pycocotools' COCO; UserError where it is missing, cut off, or lacks what is read here."""
    from pycocotools.coco import COCO

    missing = "no such file; --download fetches it, or check --coco"
    data = read_json(path, missing, broken="no JSON, or cut off; fetch it again")
    for part, keys in KEYS.items():
        if not isinstance(data, dict) or not isinstance(data.get(part), list):
            raise UserError(f"{path}: lacks the key {part!r}; COCO's JSON has {', '.join(KEYS)}")
        for k, entry in enumerate(data[part]):
            if key := lacking(entry, keys, k):
                raise UserError(f"{path}: {part}[{k}] lacks the key {key!r}, or it is of another type")
    for part in ("images", "categories"):
        ids = [entry["id"] for entry in data[part]]
        if twice := [k for k, times in Counter(ids).items() if times > 1]:
            raise UserError(
                f"{path}: ids of {part} are there twice ({twice[0]}, {len(twice)} in all); number them anew"
            )
    if not all(entry["height"] > 0 and entry["width"] > 0 for entry in data["images"]):
        raise UserError(f"{path}: has an image without any pixels; fetch it again")
    if not all(entry["height"] * entry["width"] <= 2 * Image.MAX_IMAGE_PIXELS for entry in data["images"]):
        raise UserError(f"{path}: has an image of more pixels than any photograph that is read; cut it into tiles")
    coco = COCO()
    coco.dataset = data
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    for entry in data["annotations"]:
        if entry["image_id"] not in coco.imgs or entry["category_id"] not in coco.cats:
            raise UserError(f"{path}: annotation {entry['id']} is of an image or a category that is not listed")
    return coco


def lacking(entry, keys, number):
    """The key of KEYS that an entry lacks, or has in another type; None where all is there, put in where it may lack.

    A whole number may be written 96.0, and an annotation may have no id: it gets its `number`.
    """
    if not isinstance(entry, dict):
        return next(iter(keys))
    if "image_id" in keys:
        entry.setdefault("id", number)
    for key, (kind, *default) in keys.items():
        if default and entry.get(key) is None:
            entry[key] = default[0]
        value = entry.get(key)
        if kind is int and isinstance(value, float) and value.is_integer():
            value = entry[key] = int(value)
        if not isinstance(value, kind):
            return key
    return None


def class_index(coco):
    """{category id: class index}: the categories in the order of their ids, which have gaps."""
    return {category: k for k, category in enumerate(sorted(coco.cats))}


class Split(NamedTuple):
    """What one JSON says of the images with an object, by file name in the order of image ids; total: all images."""

    classes: tuple
    labels: dict  # class indices, sorted
    sizes: dict  # (w, h)
    total: int


def read_split(path):
    """The Split of an instances_*.json; UserError as `read_instances`."""
    coco = read_instances(path)
    classes = check_class_names([entry["name"].strip() for _, entry in sorted(coco.cats.items())], path)
    index, labels, sizes = class_index(coco), {}, {}
    for image, entry in sorted(coco.imgs.items()):
        shown = {index[one["category_id"]] for one in coco.imgToAnns[image] if not one["iscrowd"]}  # crowds are none
        name = image_name(path, entry["file_name"])
        if shown and name in labels:
            raise UserError(f"{path}: two images are called {name}; fetch it again")
        if shown:
            labels[name], sizes[name] = tuple(sorted(shown)), (entry["width"], entry["height"])
    return Split(classes, labels, sizes, len(coco.imgs))


def read_outline(coco, entry, size):
    """H x W bool of an annotation, polygons or a run-length code; ValueError where it is none of an image of `size`."""
    if isinstance(entry["segmentation"], dict):
        return read_coco(entry["segmentation"], size)
    for points in entry["segmentation"]:  # the C code of pycocotools trusts them
        values = np.asarray(points, np.float64)
        if values.ndim != 1 or len(values) % 2 or not (np.abs(values) <= 2 * max(size)).all():
            raise ValueError("a polygon far out of the image, or no list of points")
    # what tools leave of one or two points covers nothing, and pycocotools takes two points for a box
    polygons = [points for points in entry["segmentation"] if len(points) >= 6]
    if not polygons:
        raise ValueError("a polygon without points, or with fewer than three")
    return coco.annToMask({**entry, "segmentation": polygons}) > 0


def instance_mask(coco, image, origin):
    """H x W uint8 of an image: the objects from the largest to the smallest, so that a small one stays visible.

    Sizes are the file's `area` or, where it has none, the pixels of the outline.

    Crowd regions are 255 where no object is, and so is the box of an object without an outline, or, without a box,
    all that no outline covers: what is there is not known.
    """
    size, index = (image["height"], image["width"]), class_index(coco)
    mask, unknown = np.full(size, BACKGROUND, np.uint8), np.zeros(size, bool)
    regions = []
    for entry in coco.imgToAnns[image["id"]]:
        if not entry["segmentation"]:
            unknown[box_slices(entry["bbox"])] = True
            continue
        try:
            inside = read_outline(coco, entry, size)
        except Exception as error:  # pycocotools has no errors of its own
            raise UserError(f"{origin}: annotation {entry['id']}: {error}; mend it, or fetch the file again") from None
        regions.append((not entry["iscrowd"], -(entry["area"] or inside.sum()), len(regions), inside, entry))
    for *_, inside, entry in sorted(regions, key=lambda region: region[:3]):
        mask[inside] = IGNORE if entry["iscrowd"] else index[entry["category_id"]] + 1
    mask[unknown & (mask == BACKGROUND)] = IGNORE
    return mask


def box_slices(box):
    """Rows and columns of a `bbox` (x, y, width, height), rounded outwards; everything where there is none."""
    try:
        x, y, width, height = np.asarray(box, np.float64)
        left, top, right, bottom = np.clip([x, y, np.ceil(x + width), np.ceil(y + height)], 0, 1e6).astype(int)
        return np.s_[top:bottom, left:right]
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
