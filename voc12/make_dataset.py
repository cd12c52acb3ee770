"""Photographs of your own, in any folders and formats, become a data set in VOC layout.

Reads:  --images with all folders below, and which classes they show: from --labels, a CSV `image,labels` (labels
        separated by ;) or `image,<class>,<class>,...` (0 or 1), or with --by_folder from the folders in --images
        photographs that show none of the classes: no label or zeros in the table, or --negatives, a folder of them
        --masks, for scores only: a mask for photograph a/b.jpg is a/b.png, 0 background, k the k-th class, 255 ignored
Writes: OUT/JPEGImages, SegmentationClass, classes.txt, cls_labels.npy, ImageSets/Segmentation/train.txt, val.txt

python voc12/make_dataset.py --images photos --labels labels.csv --out data/mine
"""

import os
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, Python looks only in voc12/

from tool.cli import Parser, fraction, natural, run_script
from tool.io.failures import FAILED_FILE, Failures
from tool.io.files import UserError, print_warning
from tool.io.images import SUFFIXES, classes_in, fit_mask, header_size, mask_oddities, open_mask
from tool.results import Notes
from voc12 import layout
from voc12.classes import check_class_names, load_classes
from voc12.label_table import finder, read_table

NO_CLASS = -1  # stands for a class where images have none


def get_args_parser():
    parser = Parser("make_dataset.py", __doc__)
    add = parser.add_argument
    add("--images", required=True, help="folder of photographs, with all folders below it")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--labels", metavar="CSV", help="table of what each photograph shows")
    text = "a photograph shows the class that its folder in --images is named by"
    source.add_argument("--by_folder", action="store_true", help=text)
    text = "folder of photographs that show none of the classes, one in --images or any other"
    add("--negatives", metavar="DIR", help=text)
    add("--out", required=True, help="folder to make, for --voc12_root of the stages")
    add("--masks", help="folder of masks: the photographs' names with .png")
    add("--val", type=fraction, default=0.2, help="part of the photographs with masks that val.txt gets, 0 to 1")
    add("--seed", type=natural, default=0, help="seed of the choice for val.txt")
    add("--copy", action="store_true", help="copy photographs and masks (default: relative links)")
    text = "class names, one a line, in the order of mask ids (default: the CSV's header, or sorted names)"
    add("--classes", metavar="FILE", help=text)
    add("--overwrite", action="store_true", help="make OUT anew; the data set there is kept beside it")
    text = "a photograph or mask that cannot be used: stop, or leave it out and list it in OUT/failed.txt"
    add("--on_error", default="stop", choices=["stop", "skip"], help=text)
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
        first, there = layout.first_names(list(missing)), layout.first_names(list(photos))
        raise UserError(f"{path}: none of its {len(missing)} images is in {images} (first {first}; there: {there})")
    return classes, labels, list(missing)


def negative_photographs(folder, images, without):
    """{name: path} of the photographs in --negatives; {} without that folder.

    name: the path below --images, or, where the folder lies elsewhere, from the folder's own name on.
    """
    if folder is None:
        return {}
    real, inside = Path(os.path.realpath(folder)), os.path.realpath(images)
    if real == Path(inside):
        raise UserError(f"--negatives {folder}: is --images itself; give a folder in it, or another")
    place = real.relative_to(inside if real.is_relative_to(inside) else real.parent)
    return {(place / name).as_posix(): real / name for name in layout.find_photographs(folder, [*without, images])}


def check_negatives(negatives, photos, labels, folder):
    """UserError where photographs in --negatives have labels, or names that photographs in --images have."""
    both = [name for name in negatives if name in photos or labels.get(name)]
    if both:
        text = f"--negatives {folder}: {len(both)} of its photographs have labels"
        raise UserError(f"{text}, or the names of some in --images ({layout.first_names(both)}); remove or rename one")


def number_labels(labels, classes, origin):
    """{photograph: names} -> {photograph: sorted indices into `classes`}; UserError where a name is not among them."""
    index = {name: k for k, name in enumerate(classes)}
    unknown = sorted({name for names in labels.values() for name in names if name not in index})
    if unknown:
        raise UserError(f"{origin}: {len(unknown)} labels are not in --classes: {layout.first_names(unknown)}")
    known = {names: tuple(sorted(index[name] for name in names)) for names in set(labels.values())}
    return {photo: known[names] for photo, names in labels.items()}


# ---------------------------------------------------------------- images and masks


def check_photograph(path):
    """(width, height) of a photograph; UserError where no reader knows it, or would not find it by its suffix."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: not the suffix of an image that is read ({', '.join(SUFFIXES)}); convert it")
    return header_size(path)


def check_mask(path, photo, size, num_classes, notes):
    """Class indices in a mask; UserError where it has other ids or not the size (w, h) of the photograph, a path.

    What is strange about it goes to `notes`.
    """
    stored = open_mask(path, num_classes + 1)
    mask = fit_mask(stored, size[::-1], photo)
    notes.add(path, mask_oddities(mask))
    if mask is not stored:
        notes.add(path, ["was drawn on the photograph unturned, and is turned like it"])
    if mask.shape[::-1] != tuple(size):
        raise UserError(
            f"{path}: {mask.shape[1]} x {mask.shape[0]} pixels, the photograph {size[0]} x {size[1]}; make it anew"
        )
    return tuple(k - 1 for k in sorted(classes_in(mask)))


def read_sizes(images, paths, masks, names, num_classes, failures):
    """Look at every photograph's header and every mask -> ({ID: (w, h)}, {ID: class indices in its mask}).

    paths: {ID: photograph}; names: {ID: relative path}, which its mask has too. What cannot be used raises a UserError
    or goes to `failures`.
    """
    sizes, shown, notes = {}, {}, Notes()

    def check(image_id):
        photo = paths[image_id]
        size = check_photograph(photo)
        mask = mask_of(masks, names[image_id])
        if mask and mask.is_file():
            shown[image_id] = check_mask(mask, photo, size, num_classes, notes)
        sizes[image_id] = size

    if not failures.usable(tqdm(names, desc="photographs", disable=None), check):
        raise UserError(f"{images}: none of {len(names)} photographs can be used")
    if masks and not shown:
        raise UserError(f"{masks}: no mask of any photograph there; the mask of a/b.jpg is a/b.png (JPEG changes ids)")
    notes.say()
    layout.say_turned(images / names[image_id] for image_id in sizes)
    return sizes, shown


def mask_of(masks, name):
    return masks and masks / Path(name).with_suffix(".png")


def choose_part(labels, part, seed):
    """A seeded part of the IDs in which every class has that part of its images, as far as single images allow.

    labels: {ID: class indices}. Classes are served from the rarest on; each keeps at least one image outside. Images
    without any class count as one more class.
    """
    labels = {image_id: indices or (NO_CLASS,) for image_id, indices in labels.items()}
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
        text = f"{len(odd)} of {len(shown)} masks hold classes that the labels lack ({layout.first_names(odd)})"
        print_warning(f"{text}; is the order of --classes that of the masks' ids?")


def main(args):
    images, masks = Path(args.images), Path(args.masks) if args.masks else None
    layout.check_out(args.out, args.overwrite)
    apart = [args.out, *([args.masks] if masks else [])]
    negatives = negative_photographs(args.negatives, images, apart)
    photos = layout.find_photographs(images, without=[*apart, *([args.negatives] if negatives else [])])
    if args.by_folder:
        layout.warn_of_empty_folders(images, photos, without=apart)
        origin, classes, missing = images, None, []
        found = {photo: frozenset(photo.split("/")[:1]) for photo in photos if "/" in photo}
    else:
        origin = args.labels
        classes, found, missing = table_labels(args.labels, images, photos)
    if not any(found.values()):
        raise UserError(f"{origin}: no photograph has a label")
    check_negatives(negatives, photos, found, args.negatives)
    if args.classes:
        classes = load_classes(args.classes)
    elif classes is None:
        classes = sorted(set().union(*found.values()))
    classes = check_class_names(classes, origin)
    found = number_labels(found, classes, origin)
    left_out = {
        "rows without a photograph": missing,
        f"photographs without a {'label' if args.by_folder else 'row'}": [p for p in photos if p not in found],
    }
    found |= dict.fromkeys(negatives, ())
    names = layout.fold_names(found)
    paths = {image_id: negatives.get(name, images / name) for image_id, name in names.items()}
    with layout.new_set(args.out, "voc12/make_dataset.py", args) as folder:
        failures = Failures(args.on_error, folder / FAILED_FILE)
        sizes, shown = read_sizes(images, paths, masks, names, len(classes), failures)
        labels = {image_id: found[names[image_id]] for image_id in sizes}
        pairs = [(paths[i], f"JPEGImages/{i}{Path(names[i]).suffix}") for i in sizes]
        pairs += [(mask_of(masks, names[i]), f"SegmentationClass/{i}.png") for i in shown]
        layout.link_all(pairs, folder, args.out, args.copy)
        val = choose_part({image_id: labels[image_id] for image_id in shown}, args.val, args.seed)
        lists = {"train": sorted(set(labels) - set(val))} | ({"val": val} if val else {})
        layout.write_set(folder, classes, labels, lists)
    warn_of_other_labels(shown, labels)
    Failures(args.on_error, Path(args.out) / FAILED_FILE).report()
    layout.print_set(args.out, classes, labels, lists, sizes, left_out)


if __name__ == "__main__":
    run_script(main, get_args_parser())
