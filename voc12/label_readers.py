"""Masks out of files of other tools: what import_labels.py reads, a function a format.

Each gives (name of the photograph, H x W uint8 ids) of every mask, None in place of a mask whose size is not known.
UserError, with file and photograph, where a file is broken or names a class that nobody knows.
"""

import contextlib
import tempfile
import zipfile
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from tool.io.files import UserError, print_warning, read_json, without_suffix
from tool.io.images import BACKGROUND, IGNORE, ids_of_colours, open_image
from tool.io.rle import read_brush
from voc12.classes import BACKGROUND_NAME, IGNORED_NAME
from voc12.coco import read_instances, read_outline
from voc12.download import unpack
from voc12.label_table import image_name
from voc12.layout import first_names
from voc12.photo_masks import LABELMAP, read_labelmap

MASKS = "SegmentationClass/"
KINDS = 'a zip of CVAT ("Segmentation mask 1.1"), a JSON export of Label Studio, or a COCO JSON'
UNLABELLED = "a region without a label; give it one, or delete it"


def open_masks(path, names):
    """The reader of a file, by what it is. names: Names."""
    if zipfile.is_zipfile(path):
        return read_cvat(path, names)
    data = read_json(path, f"no such file; FILE is {KINDS}", f"neither a zip nor JSON; FILE is {KINDS}")
    if isinstance(data, list):
        return read_labelstudio(path, names, data)
    return read_coco_json(path, names)


class Names:
    """Ids of class names; UserError of a name that nobody knows."""

    def __init__(self, path, classes):
        self.path, self.ids = path, {BACKGROUND_NAME: BACKGROUND, IGNORED_NAME: IGNORE}
        self.ids |= {name: k for k, name in enumerate(classes, 1)}

    def id(self, name, where):
        if name not in self.ids:
            raise UserError(f"{self.path}: {where}: class {str(name)[:100]!r} is not in --classes")
        return self.ids[name]


def read_cvat(path, names):
    """CVAT's zip: SegmentationClass/NAME.png in the colours of labelmap.txt."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            label_map = archive.read(LABELMAP) if LABELMAP in members else None
    except (zipfile.BadZipFile, RuntimeError, EOFError) as error:
        raise UserError(f"{path}: broken or encrypted ({error}); export it again") from None
    for member in members:
        image_name(path, member)
    if label_map is None or not any(m.startswith(MASKS) and m.endswith(".png") for m in members):
        raise UserError(
            f'{path}: lacks {LABELMAP} or {MASKS}*.png; export as "Segmentation mask 1.1", or give a COCO JSON itself'
        )
    colours = read_labelmap(label_map.decode("utf-8-sig", "replace"), f"{path}: {LABELMAP}", names.ids)
    with tempfile.TemporaryDirectory() as folder:
        unpack(path, folder, MASKS)
        for mask in sorted(Path(folder, MASKS).rglob("*.png")):
            name = mask.relative_to(Path(folder, MASKS)).as_posix()
            try:
                pixels = np.asarray(open_image(mask))
            except UserError:
                raise UserError(f"{path}: {MASKS}{name}: no image, or broken; export it again") from None
            yield name, ids_of_colours(pixels, colours, f"{path}: {name}")


def read_coco_json(path, names):
    """COCO's JSON: polygons and run-length codes, also those of crowds, since tools write masks so."""
    coco, empty = read_instances(path), []
    for image in coco.imgs.values():
        size, regions = (image["height"], image["width"]), []
        empty += [image["file_name"]] * (not coco.imgToAnns[image["id"]])
        for entry in coco.imgToAnns[image["id"]]:
            where = f"{image['file_name']}, annotation {entry['id']}"
            k = names.id(coco.cats[entry["category_id"]]["name"].strip(), where)
            try:
                if not entry["segmentation"]:
                    raise ValueError("no outline, a box alone")
                inside = read_outline(coco, entry, size)
            except Exception as error:  # pycocotools has no errors of its own
                raise UserError(f"{path}: {where}: {error}") from None
            regions.append((k, inside))
        yield image["file_name"], paint(size, sorted(regions, key=lambda region: -region[1].sum()))
    if empty:
        text = f"{path}: {len(empty)} of {len(coco.imgs)} images have no annotation ({first_names(empty)})"
        print_warning(f"{text}: their masks are all background; take them out of `images` if nobody looked at them")


def read_labelstudio(path, names, tasks):
    """Label Studio's JSON: brushes of each task's last annotation; None where that is empty, which says no size."""
    left_out = 0
    for number, task in enumerate(tasks):
        try:
            name = photograph_of(task["data"])
            annotations = [entry["result"] for entry in task["annotations"] if not entry.get("was_cancelled")]
            last = annotations[-1] if annotations else []
            named = {entry.get("id") for entry in last if entry["type"].endswith("labels")}
            if any(entry["type"] == "brush" and entry.get("id") not in named for entry in last):
                raise ValueError(UNLABELLED)
            last = [entry for entry in last if entry["type"].endswith("labels")]
            regions = [region(names, name, entry) for entry in last]
        except (KeyError, TypeError, AttributeError):
            text = "is no task of a photograph with annotations; export as JSON, not as JSON-MIN"
            raise UserError(f"{path}: task {number + 1} {text}") from None
        except ValueError as error:
            raise UserError(f"{path}: {name}: {error}") from None
        left_out += not annotations
        sizes = {inside.shape for _, inside in regions}
        if len(sizes) > 1:
            raise UserError(f"{path}: {name}: regions of several sizes")
        if annotations:
            yield name, paint(sizes.pop(), regions) if sizes else None
    if left_out:
        print_warning(f"{path}: {left_out} of {len(tasks)} tasks have no annotation and are left out")


def photograph_of(data):
    """Path or name of the photograph in a task's data: the first value that ends as one."""
    for value in data.values():
        with contextlib.suppress(ValueError, AttributeError):  # no address, or no text
            address = urlsplit(value)
            path = parse_qs(address.query).get("d", [unquote(address.path)])[0]
            if without_suffix(path) != path:
                return path
    raise KeyError("image")


def region(names, name, entry):
    """(id, H x W bool) of a region; ValueError where it is no brush."""
    value = entry["value"]
    if "rle" not in value:
        raise ValueError(f"a region of type {entry['type']}; only brushes are read")
    if not value.get(entry["type"]):
        raise ValueError(UNLABELLED)
    size = entry["original_height"], entry["original_width"]
    return names.id(value[entry["type"]][0], name), read_brush(value["rle"], size)


def paint(size, regions):
    """H x W uint8 of regions (id, H x W bool), the last on top."""
    mask = np.full(size, BACKGROUND, np.uint8)
    for k, inside in regions:
        mask[inside] = k
    return mask
