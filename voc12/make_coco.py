"""COCO 2014 as a data set in VOC layout: 80 classes, 82,081 training and 40,137 validation images.

Reads:  COCO/train2014 and val2014 (photographs), COCO/annotations/instances_train2014.json and instances_val2014.json,
        with --masks stuff COCO/stuffthingmaps/{train,val}2017 (the pixel maps of COCO-Stuff); --download fetches all
Writes: OUT/JPEGImages (links), SegmentationClass, classes.txt, cls_labels.npy, ImageSets/Segmentation/train.txt and
        val.txt: the images with at least one object

python voc12/make_coco.py --coco data/coco --out data/COCO2014 --download
"""

import sys
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, Python looks only in voc12/

from tool.cli import Parser, run_script
from tool.io.files import UserError
from tool.io.images import check_size, fit_mask, header_size, label_image, save_image
from voc12.coco import instance_mask, read_instances, read_split, stuff_mask
from voc12.download import fetch_archive, unpack
from voc12.label_table import image_name
from voc12.layout import check_out, check_suffix, first_names, fold_names, link_all, new_set, print_set, write_set
from voc12.paths import say_turned

COCO_ADDRESS = "http://images.cocodataset.org"
STUFF_ADDRESS = "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset"
SPLITS = ("train", "val")
EXPECTED = {"train": (82081, 82783), "val": (40137, 40504)}  # images with an object, all images


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
        if not names:
            raise UserError(f"{annotation_path(coco_root, split)}: no image has an object; fetch it again")
        for name in names:
            check_suffix(folder / name)
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
