"""Label masks in the formats of other tools: what export_labels.py writes, a function a format.

Each is called with the script's arguments, the class names, and an iterator of (photograph, H x W uint8 mask), where a
photograph has image_id, name (below --images) and path. It writes --out and returns the number of objects.
"""

import json
import zipfile
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import cv2
import numpy as np
from PIL import Image

from tool import VERSION
from tool.io.files import UserError, atomic, fingerprint, print_warning, without_suffix, write_text
from tool.io.images import BACKGROUND, IGNORE, PALETTE, classes_in
from tool.io.rle import write_brush
from voc12 import layout
from voc12.classes import BACKGROUND_NAME, IGNORED_NAME

ENDINGS = {"coco": ".json", "yolo": None, "cvat": ".zip", "labelstudio": ".json"}  # YOLO is a folder
MOST_OBJECTS = 254  # in a picture of 256 colours, of which one is background and one ignored


def check_names(classes, kind):
    """UserError where a class name cannot be held by a format."""
    for name in classes:
        if kind != "yolo" and name == IGNORED_NAME:
            raise UserError(f"class {name!r}: is what 255 is called in {kind}; rename it in --classes")
        if kind == "cvat" and (":" in name or name.startswith("#")):
            raise UserError(f"class {name!r}: names in CVAT's labelmap.txt have no ':' and no '#' in front; rename it")


def objects(mask, whole=False):
    """(id, H x W bool) of a mask's connected objects, also across corners; whole: of its classes. All of 255 is one."""
    for k in np.setdiff1d(np.unique(mask), [BACKGROUND]).tolist():
        if whole or k == IGNORE:
            yield k, mask == k
            continue
        count, parts = cv2.connectedComponents((mask == k).astype(np.uint8), connectivity=8)
        yield from ((k, parts == part) for part in range(1, count))


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
