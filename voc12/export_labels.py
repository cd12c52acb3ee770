"""Label masks into the formats of other tools (docs/tools.md): COCO, YOLO, CVAT, Label Studio.

Reads:  --labels, palette PNGs of class ids (ID.png, of infer_aff.py or infer_seg.py), --images, their photographs
Writes: coco         OUT.json: run-length codes, an annotation a connected object or a class (--instances)
        yolo         OUT/images, labels, data.yaml: a polygon a connected object, its holes filled
        cvat         OUT.zip: "Segmentation mask 1.1"
        labelstudio  OUT.json: a task a photograph, labels as predictions of the brush; OUT.xml: the labelling interface
255, which is ignored, goes out as a label named "ignored", which voc12/import_labels.py makes 255 again; not to YOLO.

python voc12/export_labels.py --labels experiment/N/rw/02_2119 --images photos --format cvat --out labels.zip
"""

import sys
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, Python looks only in voc12/

from tool.cli import Parser, run_script
from tool.io.files import UserError
from tool.io.images import check_size, header_size, open_mask
from voc12 import layout
from voc12.classes import load_classes
from voc12.label_writers import ENDINGS, WRITERS, check_names


def get_args_parser():
    parser = Parser("export_labels.py", __doc__)
    add = parser.add_argument
    add("--labels", required=True, help="folder of label masks, ID.png")
    add("--images", required=True, help="folder of their photographs, with all folders below it")
    add("--classes", metavar="FILE", help="class names, one a line, in the order of ids (default: VOC's 20)")
    add("--format", required=True, choices=list(ENDINGS), help="of which tool")
    text = "coco: an annotation a connected object, or a class (default: component)"
    add("--instances", choices=["component", "class"], help=text)
    text = "labelstudio: what stands before a photograph's path below --images in its address"
    add("--address", default="/data/local-files/?d=", help=text)
    add("--out", required=True, metavar="PATH", help="file to write; yolo: folder to make")
    add("--overwrite", action="store_true", help="yolo: make OUT anew; what is there is kept beside it")
    return parser


class Photo(NamedTuple):
    """A photograph with its label mask. name: below --images."""

    image_id: str
    name: str
    path: Path
    label: Path


def find_pairs(labels, images):
    """The Photo of every label mask; UserError where a photograph is not there."""
    masks, photos = layout.find_labels(labels), layout.fold_names(layout.find_photographs(images, without=[labels]))
    missing = [image_id for image_id in masks if layout.fold_id(image_id) not in photos]
    if missing:
        text = f"{labels}: no photograph in {images} for {len(missing)} of {len(masks)} labels"
        raise UserError(f"{text} ({layout.first_names(missing)}); check --images")
    if len(masks) < len(photos):
        print(f"{len(photos) - len(masks)} of {len(photos)} photographs have no label and are left out")
    names = {image_id: photos[layout.fold_id(image_id)] for image_id in masks}
    return [Photo(image_id, names[image_id], Path(images) / names[image_id], masks[image_id]) for image_id in masks]


def each_mask(photos, num_labels):
    """(Photo, H x W uint8) of all; UserError where a mask is broken or not of the photograph's size."""
    for photo in tqdm(photos, desc="labels", disable=None):
        mask = open_mask(photo.label, num_labels)
        check_size(mask, header_size(photo.path)[::-1], photo.path)
        yield photo, mask


def main(args):
    if ENDINGS[args.format] not in (None, Path(args.out).suffix.lower()):
        raise UserError(f"--out {args.out}: {args.format} is a {ENDINGS[args.format]} file; choose that ending")
    if args.instances and args.format != "coco":
        raise UserError(f"--instances {args.instances}: is for --format coco; leave it away")
    classes = load_classes(args.classes)
    check_names(classes, args.format)
    photos = find_pairs(args.labels, args.images)
    count = WRITERS[args.format](args, classes, each_mask(photos, len(classes) + 1))
    what = "regions" if args.format == "labelstudio" else "objects"
    print(f"wrote {args.out}: {len(photos)} photographs, {count} {what}")


if __name__ == "__main__":
    run_script(main, get_args_parser())
