"""COCO 2014 as a data set in VOC layout: 80 classes, 82,081 training and 40,137 validation images.

Reads:  COCO/train2014 and val2014 (photographs), COCO/annotations/instances_train2014.json and instances_val2014.json,
        with --masks stuff COCO/stuffthingmaps/{train,val}2017 (the pixel maps of COCO-Stuff); --download fetches all
Writes: OUT/JPEGImages (links), SegmentationClass, classes.txt, cls_labels.npy, ImageSets/Segmentation/train.txt and
        val.txt: the images with at least one object

python voc12/make_coco.py --coco data/coco --out data/COCO2014 --download
"""

import contextlib
import io
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, Python looks only in voc12/

from tool.cli import Parser, run_script
from tool.io.files import UserError, read_json
from tool.io.images import BACKGROUND, IGNORE, check_size, fit_mask, header_size, label_image, open_mask, save_image
from tool.io.rle import read_coco
from voc12.classes import check_class_names
from voc12.download import fetch_archive, unpack
from voc12.label_table import image_name
from voc12.layout import check_out, first_names, fold_names, link_all, new_set, print_set, write_set
from voc12.paths import say_turned

COCO_ADDRESS = "http://images.cocodataset.org"
STUFF_ADDRESS = "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset"
SPLITS = ("train", "val")
EXPECTED = {"train": (82081, 82783), "val": (40137, 40504)}  # images with an object, all images
# keys of each part: type, and what it is where a file lacks it, for those that labels do not need
KEYS = {
    "images": {"id": (int,), "file_name": (str,), "height": (int,), "width": (int,)},
    "annotations": {"id": (int,), "image_id": (int,), "category_id": (int,)},
    "categories": {"id": (int,), "name": (str,)},
}
KEYS["annotations"] |= {"iscrowd": (int, 0), "area": (int | float, 0)}
KEYS["annotations"] |= {"segmentation": (list | dict, []), "bbox": (list, [])}


def get_args_parser():
    parser = Parser("make_coco.py", __doc__)
    add = parser.add_argument
    add("--coco", required=True, help="folder of train2014, val2014 and annotations")
    add("--out", default="data/COCO2014", help="folder to make, for --voc12_root")
    text = "the objects' outlines, small over large, or COCO-Stuff's pixel maps (see docs/coco.md)"
    add("--masks", default="instances", choices=["instances", "stuff"], help=text)
    text = "fetch what is missing into --coco: 20 GB of archives, as much again unpacked"
    add("--download", action="store_true", help=text)
    add("--overwrite", action="store_true", help="make OUT anew; the data set there is kept beside it")
    return parser


# ---------------------------------------------------------------- annotations


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


# ---------------------------------------------------------------- files


def download(coco, masks):
    """Fetch and unpack what `coco` lacks. An archive that is there is unpacked again where files are missing."""
    annotations = [f"annotations/instances_{split}2014.json" for split in SPLITS]
    wanted = [
        (f"{COCO_ADDRESS}/annotations/annotations_trainval2014.zip", coco, annotations, "annotations/instances_"),
        *((f"{COCO_ADDRESS}/zips/{split}2014.zip", coco, [f"{split}2014"], "") for split in SPLITS),
    ]
    if masks == "stuff":
        folder = coco / "stuffthingmaps"
        wanted.append((f"{STUFF_ADDRESS}/stuffthingmaps_trainval2017.zip", folder, ["train2017", "val2017"], ""))
    for url, folder, results, begins in wanted:
        name = url.rpartition("/")[2]
        if (coco / name).exists() or not all((folder / result).exists() for result in results):
            unpack(fetch_archive(name, url, coco), folder, begins)


def write_masks(coco_root, kind, ids, folder):
    """SegmentationClass/ID.png of every image. ids: {split: {file name: ID}}; kind: instances or stuff."""
    for split in SPLITS:
        path = annotation_path(coco_root, split)
        coco = read_instances(path)  # again: both at once would take twice 2 GB
        images = [(image_name(path, image["file_name"]), image) for image in coco.imgs.values()]
        images = [(name, image) for name, image in images if name in ids[split]]
        for name, image in tqdm(images, desc=f"masks of {split}", disable=None):
            if kind == "stuff":
                mask = stuff_mask(coco, image, coco_root / "stuffthingmaps")
            else:
                mask = instance_mask(coco, image, path)
            photo = coco_root / f"{split}2014" / name
            size = header_size(photo)[::-1]
            mask = fit_mask(mask, size, photo)
            check_size(mask, size, photo)
            save_image(folder / "SegmentationClass" / f"{ids[split][name]}.png", label_image(mask))


def annotation_path(coco_root, split):
    return coco_root / "annotations" / f"instances_{split}2014.json"


def main(args):
    coco_root = Path(args.coco)
    check_out(args.out, args.overwrite)
    if args.download:
        download(coco_root, args.masks)
    found = {split: read_split(annotation_path(coco_root, split)) for split in SPLITS}
    classes = found["train"].classes
    if found["val"].classes != classes:
        raise UserError(f"{annotation_path(coco_root, 'val')}: other categories than in training; fetch both again")
    for split in SPLITS:
        folder, names = coco_root / f"{split}2014", list(found[split].labels)
        if missing := [name for name in names if not (folder / name).is_file()]:
            text = f"{folder}: {len(missing)} of {len(names)} photographs are not there ({first_names(missing)})"
            raise UserError(f"{text}; --download fetches them")
    names = fold_names(name for split in SPLITS for name in found[split].labels)
    ids = {split: {name: i for i, name in names.items() if name in found[split].labels} for split in SPLITS}
    labels = {ids[split][name]: indices for split in SPLITS for name, indices in found[split].labels.items()}
    lists = {split: list(ids[split].values()) for split in SPLITS}
    with new_set(args.out, "voc12/make_coco.py", args) as folder:
        pairs = [
            (coco_root / f"{s}2014" / n, f"JPEGImages/{i}{Path(n).suffix}") for s in SPLITS for n, i in ids[s].items()
        ]
        link_all(pairs, folder, args.out)
        say_turned(source for source, _ in pairs)
        write_masks(coco_root, args.masks, ids, folder)
        write_set(folder, classes, labels, lists)
    for split in SPLITS:
        with_object, every = EXPECTED[split]
        counts = f"{len(lists[split]):,} of {found[split].total:,} images have an object"
        print(f"{split}: {counts} (COCO 2014: {with_object:,} of {every:,})")
    sizes = {name: size for split in SPLITS for name, size in found[split].sizes.items()}
    print_set(args.out, classes, labels, lists, sizes)


if __name__ == "__main__":
    run_script(main, get_args_parser())
