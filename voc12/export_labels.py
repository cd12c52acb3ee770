"""Label masks into the formats of other tools (docs/tools.md): COCO, YOLO, CVAT, Label Studio.

Reads:  --labels, palette PNGs of class ids (ID.png, of infer_aff.py or infer_seg.py), --images, their photographs
Writes: coco         OUT.json: run-length codes, an annotation a connected object or a class (--instances)
        yolo         OUT/images, labels, data.yaml: a polygon a connected object, its holes filled
        cvat         OUT.zip: "Segmentation mask 1.1"
        labelstudio  OUT.json: a task a photograph, labels as predictions of the brush; OUT.xml: the labelling interface
255, which is ignored, goes out as a label named "ignored", which voc12/import_labels.py makes 255 again; not to YOLO.

python voc12/export_labels.py --labels experiment/N/rw/02_2119 --images photos --format cvat --out labels.zip
"""

import json
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, Python looks only in voc12/

from tool import VERSION
from tool.cli import Parser, run_script
from tool.io.files import UserError, atomic, fingerprint, print_warning, without_suffix, write_text
from tool.io.images import BACKGROUND, IGNORE, PALETTE, check_size, classes_in, header_size, open_mask
from tool.io.rle import write_brush
from voc12 import layout
from voc12.classes import BACKGROUND_NAME, IGNORED_NAME, load_classes

ENDINGS = {"coco": ".json", "yolo": None, "cvat": ".zip", "labelstudio": ".json"}  # YOLO is a folder
MOST_OBJECTS = 254  # in a picture of 256 colours, of which one is background and one ignored


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


def check_names(classes, kind):
    """UserError where a class name cannot be held by a format."""
    for name in classes:
        if kind != "yolo" and name == IGNORED_NAME:
            raise UserError(f"class {name!r}: is what 255 is called in {kind}; rename it in --classes")
        if kind == "cvat" and (":" in name or name.startswith("#")):
            raise UserError(f"class {name!r}: names in CVAT's labelmap.txt have no ':' and no '#' in front; rename it")


def each_mask(photos, num_labels):
    """(Photo, H x W uint8) of all; UserError where a mask is broken or not of the photograph's size."""
    for photo in tqdm(photos, desc="labels", disable=None):
        mask = open_mask(photo.label, num_labels)
        check_size(mask, header_size(photo.path)[::-1], photo.path)
        yield photo, mask


def objects(mask, whole=False):
    """(id, H x W bool) of the connected objects of a mask, neighbours across corners too; whole: of its classes.

    What is ignored is one object.
    """
    for k in np.setdiff1d(np.unique(mask), [BACKGROUND]).tolist():
        if whole or k == IGNORE:
            yield k, mask == k
            continue
        count, parts = cv2.connectedComponents((mask == k).astype(np.uint8), connectivity=8)
        yield from ((k, parts == part) for part in range(1, count))


# ---------------------------------------------------------------- formats


def write_coco(args, classes, masks):
    from pycocotools import mask as coco

    images, annotations, names = [], [], dict(enumerate(classes, 1))
    for number, (photo, mask) in enumerate(masks, 1):
        images.append({"id": number, "file_name": photo.name, "width": mask.shape[1], "height": mask.shape[0]})
        for k, inside in objects(mask, args.instances == "class"):
            code = coco.encode(np.asfortranarray(inside, np.uint8))
            about = {"id": len(annotations) + 1, "image_id": number, "category_id": k, "iscrowd": int(k == IGNORE)}
            outline = {"size": list(mask.shape), "counts": code["counts"].decode()}
            shape = {"segmentation": outline, "area": int(inside.sum()), "bbox": coco.toBbox(code).tolist()}
            annotations.append(about | shape)
            names |= {IGNORE: IGNORED_NAME} if k == IGNORE else {}
    categories = [{"id": k, "name": name, "supercategory": ""} for k, name in names.items()]
    info = {"info": {"description": f"labels of AEFT {VERSION}"}, "licenses": []}
    write_text(args.out, json.dumps(info | {"images": images, "annotations": annotations, "categories": categories}))
    return len(annotations)


def polygon_line(k, inside):
    """YOLO's line of a connected object, and how many pixels its filled holes have.

    Points are the pixels of the outline and a quarter: some readers round, others cut off, and both find the pixel.
    """
    (outline, *_), _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    filled = cv2.fillPoly(np.zeros(inside.shape, np.uint8), [outline], 1)
    points = ((outline[:, 0] + 0.25) / inside.shape[::-1]).tolist()
    points += points[-1:] * (3 - len(points))  # a polygon has three, also that of a single pixel
    return " ".join([str(k - 1), *(f"{v:.6f}" for point in points for v in point)]), int(filled.sum() - inside.sum())


def write_yolo(args, classes, masks):
    count, holes, ignored, pairs = 0, [], 0, []
    with layout.new_set(args.out, "voc12/export_labels.py", args) as folder:
        for photo, mask in masks:
            found = [polygon_line(k, inside) for k, inside in objects(mask) if k != IGNORE]
            write_text(folder / "labels" / "train" / f"{photo.image_id}.txt", "".join(f"{line}\n" for line, _ in found))
            pairs.append((photo.path, f"images/train/{photo.image_id}{photo.path.suffix}"))
            count, ignored = count + len(found), ignored + (IGNORE in mask)
            holes += [lost for _, lost in found if lost]
        layout.link_all(pairs, folder, args.out)
        names = "".join(f"  {k}: {json.dumps(name, ensure_ascii=False)}\n" for k, name in enumerate(classes))
        text = "# val: name photographs of your own, whose labels are known to be right\n"
        write_text(folder / "data.yaml", f"{text}train: images/train\nval: images/train\nnames:\n{names}")
    if holes:
        print_warning(
            f"polygons have no holes: those of {len(holes)} of {count} objects are filled, {sum(holes)} pixels"
        )
    if ignored:
        print_warning(f"YOLO ignores nothing: pixels of 255 in {ignored} masks count as background there")
    return count


def object_numbers(mask):
    """H x W uint8 of objects from 1 on and of what is ignored, and their number; of too many a class is one object."""
    found = [inside for k, inside in objects(mask) if k != IGNORE]
    if len(found) > MOST_OBJECTS:
        found = [mask == k for k in sorted(classes_in(mask))]
    numbers = np.where(mask == IGNORE, IGNORE, BACKGROUND).astype(np.uint8)
    for number, inside in enumerate(found, 1):
        numbers[inside] = number
    return numbers, len(found)


def write_cvat(args, classes, masks):
    colours, names, count = {BACKGROUND_NAME: 0} | dict(zip(classes, range(1, 255))), [], 0
    with atomic(args.out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for photo, mask in masks:
            name, (numbers, found) = without_suffix(photo.name), object_numbers(mask)
            for folder, ids in (("SegmentationClass", mask), ("SegmentationObject", numbers)):
                with archive.open(f"{folder}/{name}.png", "w") as stream:
                    Image.fromarray(PALETTE[ids]).save(stream, format="PNG")
            names.append(f"{name}\n")
            count += found
            colours |= {IGNORED_NAME: IGNORE} if IGNORE in mask else {}
        lines = [f"{name}:{','.join(map(str, PALETTE[k]))}::\n" for name, k in colours.items()]
        archive.writestr("labelmap.txt", "".join(["# label:color_rgb:parts:actions\n", *lines]))
        archive.writestr("ImageSets/Segmentation/default.txt", "".join(names))
    labels = [{"name": name, "attributes": []} for name in colours if name != BACKGROUND_NAME]
    print(f"labels of the task, for CVAT's tab Raw: {json.dumps(labels, ensure_ascii=False)}")
    return count


def write_labelstudio(args, classes, masks):
    tasks, colours = [], {name: k for k, name in enumerate(classes, 1)}
    for photo, mask in masks:
        height, width = mask.shape
        regions = []
        for k, inside in objects(mask, whole=True):
            name = IGNORED_NAME if k == IGNORE else classes[k - 1]
            colours |= {name: k}
            regions.append({
                "id": fingerprint(photo.image_id, k)[:10],
                "type": "brushlabels",
                "from_name": "label",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {"format": "rle", "rle": write_brush(inside), "brushlabels": [name]},
            })  # fmt: skip
        prediction = {"model_version": f"AEFT {VERSION}", "result": regions}
        tasks.append({"data": {"image": args.address + quote(photo.name)}, "predictions": [prediction]})
    write_text(args.out, json.dumps(tasks))
    labels = "".join(
        f'    <Label value={quoteattr(name)} background="#{bytes(PALETTE[k]).hex()}"/>\n' for name, k in colours.items()
    )
    image = '  <Image name="image" value="$image" zoom="true"/>\n'
    brush = f'  <BrushLabels name="label" toName="image">\n{labels}  </BrushLabels>\n'
    write_text(Path(args.out).with_suffix(".xml"), f"<View>\n{image}{brush}</View>\n")
    return sum(len(task["predictions"][0]["result"]) for task in tasks)


WRITERS = {"coco": write_coco, "yolo": write_yolo, "cvat": write_cvat, "labelstudio": write_labelstudio}


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
