"""Photographs of your own, in any folders and formats, become a data set in VOC layout.

Reads:  --images with all folders below, and which classes they show: from --labels, a CSV `image,labels` (labels
        separated by ;) or `image,<class>,<class>,...` (0 or 1), or with --by_folder from the folders in --images
        --masks, for scores only: a mask for photograph a/b.jpg is a/b.png, 0 background, k the k-th class, 255 ignored
Writes: OUT/JPEGImages, SegmentationClass, classes.txt, cls_labels.npy, ImageSets/Segmentation/train.txt, val.txt

python voc12/make_dataset.py --images photos --labels labels.csv --out data/mine
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, Python looks only in voc12/

from tool.io.files import IMAGE_SUFFIXES, UserError
from tool.io.images import classes_in, header_size, open_mask
from tool.run.arguments import fraction, natural
from tool.run.failures import Failures
from tool.run.script import run_script
from voc12.classes import check_class_names, load_classes
from voc12.label_table import finder, read_table
from voc12.layout import (
    check_out,
    find_photographs,
    first_names,
    fold_names,
    link_all,
    new_set,
    print_classes,
    print_left_out,
    print_lists,
    print_next,
    print_sizes,
    write_set,
)


def get_args_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=str, required=True, help="folder of photographs, with all folders below it")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--labels", type=str, default=None, metavar="CSV", help="table of what each photograph shows")
    source.add_argument(
        "--by_folder", action="store_true", help="a photograph shows the class that its folder in --images is named by"
    )
    parser.add_argument("--out", type=str, required=True, help="folder to make, for --voc12_root of the stages")
    parser.add_argument("--masks", type=str, default=None, help="folder of masks: the photographs' names with .png")
    parser.add_argument(
        "--val", type=fraction, default=0.2, help="part of the photographs with masks that val.txt gets, 0 to 1"
    )
    parser.add_argument("--seed", type=natural, default=0, help="seed of the choice for val.txt")
    parser.add_argument("--copy", action="store_true", help="copy photographs and masks (default: relative links)")
    parser.add_argument(
        "--classes",
        type=str,
        default=None,
        metavar="FILE",
        help="class names, one a line, in the order of mask ids (default: the CSV's header, or sorted names)",
    )
    parser.add_argument("--overwrite", action="store_true", help="make OUT anew; the data set there is kept beside it")
    parser.add_argument(
        "--on_error",
        type=str,
        default="stop",
        choices=["stop", "skip"],
        help="a photograph or mask that cannot be used: stop, or leave it out and list it in OUT/failed.txt",
    )
    return parser


# ---------------------------------------------------------------- labels


def table_labels(path, images, photos):
    """Labels of a CSV -> (class names or None, {photograph: names}, rows without a photograph)."""
    find, missing = finder(images, photos), {}

    def locate(name):
        photo = find(name)
        if photo is None:
            missing[name] = True
        return photo or name

    classes, labels = read_table(path, locate)
    labels = {photo: names for photo, names in labels.items() if photo not in missing}
    if not labels:
        raise UserError(
            f"{path}: none of its {len(missing)} images is in {images} (first {first_names(list(missing))}; there: "
            f"{first_names(list(photos))})"
        )
    return classes, labels, list(missing)


def folder_labels(photos):
    """{photograph: the name of its folder in --images}; none for photographs beside these folders."""
    return {photo: frozenset(photo.split("/")[:1] if "/" in photo else ()) for photo in photos}


def number_labels(labels, classes, origin):
    """{photograph: names} -> {photograph: sorted indices into `classes`}; UserError where a name is not among them."""
    index = {name: k for k, name in enumerate(classes)}
    unknown = sorted({name for names in labels.values() for name in names if name not in index})
    if unknown:
        raise UserError(f"{origin}: {len(unknown)} labels are not in --classes: {first_names(unknown)}")
    known = {names: tuple(sorted(index[name] for name in names)) for names in set(labels.values())}
    return {photo: known[names] for photo, names in labels.items()}


# ---------------------------------------------------------------- images and masks


def check_photograph(path):
    """(width, height) of a photograph; UserError where no reader knows it, or would not find it by its suffix."""
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(f"{path}: not the suffix of an image that is read ({', '.join(IMAGE_SUFFIXES)}); convert it")
    return header_size(path)


def check_mask(path, size, num_classes):
    """Class indices in a mask; UserError where it has other ids or not the photograph's size (w, h)."""
    mask = open_mask(path, num_classes + 1)
    if mask.shape[::-1] != tuple(size):
        raise UserError(
            f"{path}: {mask.shape[1]} x {mask.shape[0]} pixels, the photograph {size[0]} x {size[1]}; make it anew"
        )
    return tuple(k - 1 for k in sorted(classes_in(mask)))


def read_sizes(images, masks, names, num_classes, failures):
    """Look at every photograph's header and every mask -> ({ID: (w, h)}, {ID: class indices in its mask}).

    names: {ID: relative path}. What cannot be used raises a UserError or goes to `failures`.
    """
    sizes, shown = {}, {}

    def check(image_id):
        size = check_photograph(images / names[image_id])
        mask = mask_of(masks, names[image_id])
        if mask and mask.is_file():
            shown[image_id] = check_mask(mask, size, num_classes)
        sizes[image_id] = size

    if not failures.usable(tqdm(names, desc="photographs", disable=None), check):
        raise UserError(f"{images}: none of {len(names)} photographs can be used")
    if masks and not shown:
        raise UserError(f"{masks}: no mask of any photograph there; the mask of a/b.jpg is a/b.png")
    return sizes, shown


def mask_of(masks, name):
    return masks and masks / Path(name).with_suffix(".png")


def choose_part(labels, part, seed):
    """A seeded part of the IDs in which every class has that part of its images, as far as single images allow.

    labels: {ID: class indices}. Classes are served from the rarest on; each keeps at least one image outside.
    """
    order = np.random.default_rng(seed).permutation(sorted(labels)).tolist()
    members = {}
    for image_id in order:
        for k in labels[image_id]:
            members.setdefault(k, []).append(image_id)
    left = {k: len(ids) for k, ids in members.items()}  # outside the part
    chosen, decided = set(), set()
    for k in sorted(members, key=lambda k: (len(members[k]), k)):
        goal = max(1, len(members[k]) - round(part * len(members[k])))
        for image_id in members[k]:
            if left[k] > goal and image_id not in decided and all(left[j] > 1 for j in labels[image_id]):
                chosen.add(image_id)
                for j in labels[image_id]:
                    left[j] -= 1
        decided.update(members[k])
    return sorted(chosen)


def warn_of_other_labels(shown, labels):
    """A mask with classes that the label lacks: often the classes are in another order than the masks' ids."""
    odd = [image_id for image_id, found in shown.items() if not set(found) <= set(labels[image_id])]
    if odd:
        print(
            f"warning: {len(odd)} of {len(shown)} masks hold classes that the labels lack ({first_names(odd)}); is the "
            "order of --classes that of the masks' ids?",
            file=sys.stderr,
        )


def main(args):
    images, masks = Path(args.images), Path(args.masks) if args.masks else None
    check_out(args.out, args.overwrite)
    photos = find_photographs(images, without=[args.out, *([args.masks] if masks else [])])
    if args.by_folder:
        origin, classes, found, missing = images, None, folder_labels(photos), []
    else:
        origin = args.labels
        classes, found, missing = table_labels(args.labels, images, photos)
    if not any(found.values()):
        raise UserError(f"{origin}: no photograph has a label")
    if args.classes:
        classes = load_classes(args.classes)
    elif classes is None:
        classes = sorted(set().union(*found.values()))
    classes = check_class_names(classes, origin)
    found = number_labels(found, classes, origin)
    left_out = {
        "rows without a photograph": missing,
        "photographs without a row": [photo for photo in photos if photo not in found],
        "photographs without a label": [photo for photo, indices in found.items() if not indices],
    }
    names = fold_names(photo for photo, indices in found.items() if indices)
    with new_set(args.out, "voc12/make_dataset.py", args) as folder:
        failures = Failures(args.on_error, folder / "failed.txt")
        sizes, shown = read_sizes(images, masks, names, len(classes), failures)
        labels = {image_id: found[names[image_id]] for image_id in sizes}
        pairs = [(images / names[i], f"JPEGImages/{i}{Path(names[i]).suffix}") for i in sizes]
        pairs += [(mask_of(masks, names[i]), f"SegmentationClass/{i}.png") for i in shown]
        link_all(pairs, folder, args.out, args.copy)
        val = choose_part({image_id: labels[image_id] for image_id in shown}, args.val, args.seed)
        lists = {"train": sorted(set(labels) - set(val))} | ({"val": val} if val else {})
        write_set(folder, classes, labels, lists)
    print_classes(classes, labels, lists)
    print_sizes(sizes)
    print_left_out(left_out)
    warn_of_other_labels(shown, labels)
    Failures(args.on_error, Path(args.out) / "failed.txt").report()
    print_lists(args.out, lists)
    print_next(args.out)


if __name__ == "__main__":
    run_script(main, get_args_parser())
