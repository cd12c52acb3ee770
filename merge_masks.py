"""Labels take the outlines of masks without classes, such as those of Segment Anything's automatic mask generator.

reads   LABELS/ID.png, label masks of any stage; MASKS/ID/*.png with metadata.csv, or MASKS/ID.json with COCO's
        run-length codes, as that generator writes them (docs/tools.md)
writes  OUT/ID.png: H x W class ids, palette PNG; labels without masks as they were
        python merge_masks.py --labels experiment/N/rw/02_2119 --masks sam --out merged

A mask takes the class that most of its pixels have, where those are at least --cover of them; else it is background
where that has at least --cover_background; else what is in it stays. Masks are laid over each other from the largest
to the smallest. Pixels in no mask keep their label; 255 (ignored) counts for nothing and is covered.
"""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from tool.cli import Parser, fraction, run_script
from tool.io.files import UserError, print_warning, read_json
from tool.io.images import BACKGROUND, IGNORE, label_image, open_mask, save_image
from tool.io.rle import read_coco
from voc12.layout import check_out, find_labels, first_names, fold_id, new_set


def get_args_parser():
    parser = Parser("merge_masks.py", __doc__)
    add = parser.add_argument
    add("--labels", required=True, help="folder of label masks, ID.png")
    add("--masks", required=True, help="folder with ID/*.png or ID.json of each image")
    add("--out", required=True, help="folder to make")
    text = "part of a mask, 0 to 1, that a class covers at least where the mask takes it"
    add("--cover", type=fraction, default=0.5, help=text)
    text = "part of a mask, 0 to 1, that background covers at least where the mask becomes background"
    add("--cover_background", type=fraction, default=0.7, help=text)
    add("--overwrite", action="store_true", help="make OUT anew; what is there is kept beside it")
    return parser


def read_masks(folder, image_id, size):
    """H x W bool masks of an image of `size` (h, w), a list; None where there are none of this ID."""
    path = Path(folder) / f"{image_id}.json"
    if path.is_file():
        return read_codes(path, size)
    path = Path(folder) / image_id
    files = sorted(path.glob("*.png"))
    if not path.is_dir() or not files:
        return None
    table = path / "metadata.csv"
    if table.is_file() and (rows := len(table.read_bytes().splitlines()) - 1) != len(files):
        raise UserError(f"{path}: {len(files)} masks, but metadata.csv has {rows}; make the masks of this image anew")
    masks = [open_mask(file, 256) > 0 for file in files]
    for file, mask in zip(files, masks, strict=True):
        if mask.shape != size:
            (height, width), own = size, mask.shape
            text = f"{own[1]} x {own[0]} pixels, but its label has {width} x {height}: a mask of another image?"
            raise UserError(f"{file}: {text}")
    return masks


def read_codes(path, size):
    """Masks of a JSON: a list of {"segmentation": run-length code, ...}, or a dict that has it as its `annotations`."""
    entries = read_json(path)
    try:
        entries = entries["annotations"] if isinstance(entries, dict) else entries
        return [read_coco(entry["segmentation"], size) for entry in entries]
    except (TypeError, KeyError):
        text = "no list of masks with a `segmentation`; Segment Anything writes one an image, SA-1B has `annotations`"
        raise UserError(f"{path}: {text}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}: masks of another image? Its label has {size[1]} x {size[0]}") from None


def merge(labels, masks, cover, cover_background):
    """H x W uint8 labels after the masks have taken theirs. masks: H x W bool, in any order."""
    merged = labels.copy()
    for mask in sorted(masks, key=lambda mask: -mask.sum()):
        counts = np.bincount(labels[mask], minlength=IGNORE + 1)[:IGNORE]
        total, best = counts.sum(), 1 + int(counts[1:].argmax())
        if counts[best] and counts[best] >= cover * total:
            merged[mask] = best
        elif counts[BACKGROUND] and counts[BACKGROUND] >= cover_background * total:
            merged[mask] = BACKGROUND
    return merged


def main(args):
    paths, without, changed, pixels = find_labels(args.labels), [], 0, 0
    check_out(args.out, args.overwrite)
    names = {path.name if path.is_dir() else path.stem for path in Path(args.masks).glob("*")}
    named = {fold_id(name): name for name in sorted(names, key=lambda name: fold_id(name) == name)}  # an ID itself wins
    with new_set(args.out, "merge_masks.py", args) as folder:
        for image_id, path in tqdm(paths.items(), desc="labels", disable=None):
            labels = open_mask(path, IGNORE)
            masks = read_masks(args.masks, named.get(image_id, image_id), labels.shape)
            without += [image_id] * (masks is None)
            merged = merge(labels, masks or [], args.cover, args.cover_background)
            save_image(folder / f"{image_id}.png", label_image(merged))
            changed, pixels = changed + int((merged != labels).sum()), pixels + labels.size
        if len(without) == len(paths):
            raise UserError(f"{args.masks}: no masks of any label in {args.labels} (ID/*.png or ID.json)")
    if without:
        text = f"{args.masks}: no masks for {len(without)} of {len(paths)} labels, which stay as they are"
        print_warning(f"{text} ({first_names(without)})")
    print(f"wrote {len(paths)} labels to {args.out}: {100 * changed / pixels:.1f} % of their pixels changed")


if __name__ == "__main__":
    run_script(main, get_args_parser())
