"""Label masks that were corrected in another tool come back as PNGs of our ids, by the names of classes.

Reads:  FILE, a zip of CVAT ("Segmentation mask 1.1"), a JSON export of Label Studio (brush), or a COCO JSON;
        --labels, the masks that were exported: their IDs, and the size that a corrected mask must have
Writes: OUT/ID.png: H x W class ids, palette PNG; for train_seg.py --corrected OUT

python voc12/import_labels.py corrected.zip --labels experiment/N/rw/02_2119 --out corrected

A label named "ignored" becomes 255. Of Label Studio's annotations of a task the last one that was not cancelled is
taken; tasks without any are left out. Where regions overlap, the later one is on top, of COCO the smaller one.
"""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, Python looks only in voc12/

from tool.cli import Parser, run_script
from tool.io.files import UserError, print_warning, without_suffix
from tool.io.images import BACKGROUND, label_image, open_mask, save_image
from voc12 import layout
from voc12.classes import load_classes
from voc12.label_readers import KINDS, Names, open_masks
from voc12.label_table import image_name

UPLOADED = re.compile(r"[0-9a-f]{8}-")  # what Label Studio puts in front of the names of uploaded files


def get_args_parser():
    parser = Parser("import_labels.py", __doc__)
    add = parser.add_argument
    add("file", metavar="FILE", help=KINDS)
    text = "folder of the masks that were exported; without it IDs are the names in FILE, and sizes are not compared"
    add("--labels", help=text)
    add("--classes", metavar="FILE", help="class names, one a line, in the order of ids (default: VOC's 20)")
    add("--out", required=True, help="folder to make, for --corrected of train_seg.py")
    add("--overwrite", action="store_true", help="make OUT anew; what is there is kept beside it")
    return parser


def find_id(name, known, path):
    """ID of a mask by its photograph's name, to which tools add folders or a hash; UserError where `known` has none."""
    if known is None:
        return layout.fold_id(without_suffix(image_name(path, name.lstrip("/"))))
    parts = [part for part in without_suffix(name.replace("\\", "/")).split("/") if part not in ("", ".", "..")]
    if not parts:
        raise UserError(f"{path}: {name!r} names no photograph")
    tails = ["/".join(parts[k:]) for k in range(len(parts))]
    tails += [UPLOADED.sub("", parts[-1], count=1)]
    for tail in tails:
        for image_id in (tail, layout.fold_id(tail)):
            if image_id in known:
                return image_id
    raise UserError(
        f"{path}: {name}: of a photograph that has no label in --labels ({layout.first_names(list(known))})"
    )


def old_label(path, num_labels, mask, where):
    """The label that a mask corrects; UserError where that is of another size."""
    label = open_mask(path, num_labels)
    if mask is not None and mask.shape != label.shape:
        sizes = [f"{w} x {h}" for h, w in (mask.shape, label.shape)]
        raise UserError(f"{where}: {sizes[0]} pixels, but {path} has {sizes[1]}: a mask of another photograph?")
    return label


def main(args):
    classes = load_classes(args.classes)
    known = layout.find_labels(args.labels) if args.labels else None
    layout.check_out(args.out, args.overwrite)
    seen, changed, unknown = {}, 0, 0
    with layout.new_set(args.out, "voc12/import_labels.py", args) as folder:
        for name, mask in tqdm(open_masks(args.file, Names(args.file, classes)), desc="masks", disable=None):
            image_id = find_id(name, known, args.file)
            if image_id in seen:
                raise UserError(f"{args.file}: {name} and {seen[image_id]} are both of {image_id}; remove one")
            seen[image_id] = name
            if known:
                label = old_label(known[image_id], len(classes) + 1, mask, f"{args.file}: {name}")
                mask = np.full_like(label, BACKGROUND) if mask is None else mask
                changed += not np.array_equal(mask, label)
            if mask is None:
                unknown += 1
            else:
                save_image(folder / f"{image_id}.png", label_image(mask))
        if unknown == len(seen):
            raise UserError(f"{args.file}: holds no mask")
    if unknown:
        print_warning(f"{unknown} annotations without a region are left out: --labels would give their size")
    print(f"wrote {len(seen) - unknown} masks to {args.out}" + f", {changed} of them changed" * (known is not None))
    print(f"next: python train_seg.py --name NAME --labels LABELS --corrected {shlex.quote(str(args.out))}")


if __name__ == "__main__":
    run_script(main, get_args_parser())
