"""Photographs of your own, in any folders and formats, become a data set in VOC layout.

Reads:  --images with all folders below, and which classes they show: from --labels, a CSV `image,labels` (labels
        separated by ;) or `image,<class>,<class>,...` (0 or 1), or with --by_folder from the folders in --images;
        a photograph in several of these has all their classes
        photographs that show none of the classes: no label or zeros in the table, or --negatives, a folder of them
        --masks, for scores only: a mask for photograph a/b.jpg is a/b.png, 0 background, k the k-th class, 255 ignored,
        or in the colours of a labelmap.txt (CVAT) or, without one, of VOC
Writes: OUT/JPEGImages, SegmentationClass, classes.txt, cls_labels.npy, ImageSets/Segmentation/train.txt, val.txt, and
        masks.txt: the photographs of train.txt that have masks, which score and choose

python voc12/make_dataset.py --images photos --labels labels.csv --out data/mine
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, Python looks only in voc12/

from tool.cli import Parser, fraction, natural, run_script
from tool.io.failures import FAILED_FILE, Failures
from tool.io.files import UserError
from voc12 import layout, photo_labels
from voc12.classes import BACKGROUND_NAME, check_class_names, load_classes
from voc12.photo_masks import (
    check_masks,
    choose_part,
    find_masks,
    mask_colours,
    read_sizes,
    warn_of_other_labels,
    write_masks,
)


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
    text = "lines name:r,g,b:: for masks in colour (default: labelmap.txt in --masks or above it, else VOC's colours)"
    add("--labelmap", metavar="FILE", help=text)
    add("--val", type=fraction, default=0.2, help="part of the photographs with masks that val.txt gets, 0 to 1")
    add("--seed", type=natural, default=0, help="seed of the choice for val.txt")
    add("--copy", action="store_true", help="copy photographs and masks (default: relative links)")
    text = (
        "class names, one a line, in the order of mask ids, all meant as they stand there (default: the CSV's header, "
    )
    text += "or sorted names)"
    add("--classes", metavar="FILE", help=text)
    add("--overwrite", action="store_true", help="make OUT anew; the data set there is kept beside it")
    text = "a photograph or mask that cannot be used: stop, or leave it out and list it in OUT/failed.txt"
    add("--on_error", default="stop", choices=["stop", "skip"], help=text)
    return parser


def choose_classes(args, header, found, origin):
    """Names of the classes: those of --classes, or of the table's header, or all that occur; these are looked at."""
    if args.classes:
        return check_class_names(load_classes(args.classes), origin)
    classes = header or sorted(set().union(*found.values()))
    if BACKGROUND_NAME in classes:
        text = "is no class but what none of them covers; photographs without any have an empty label, or are in"
        raise UserError(f"{origin}: {BACKGROUND_NAME!r} {text} --negatives DIR")
    classes = check_class_names(classes, origin)
    photo_labels.ask_about_labels(found, classes, origin, listed=header is None and not args.by_folder)
    return classes


def main(args):
    images, masks = Path(args.images), Path(args.masks) if args.masks else None
    layout.check_out(args.out, args.overwrite)
    check_masks(masks, images, args.labelmap)
    apart = [args.out, *([args.masks] if masks else [])]
    negatives = photo_labels.negative_photographs(args.negatives, images, apart)
    apart += [args.negatives] * bool(negatives)
    photos = layout.find_photographs(images, without=apart)
    classes, missing, copies = None, [], {}
    if args.by_folder:
        layout.warn_of_empty_folders(images, photos, without=apart)
        origin, (found, copies) = images, photo_labels.folder_labels(images, photos)
    else:
        origin = args.labels
        classes, found, missing = photo_labels.table_labels(args.labels, images, photos)
    if not any(found.values()):
        raise UserError(f"{origin}: no photograph has a label")
    photo_labels.check_negatives(negatives, images, photos, found, args.negatives)
    classes = choose_classes(args, classes, found, origin)
    found = photo_labels.number_labels(found, classes, origin)
    again = [name for names in copies.values() for name in names]
    left_out = {
        "rows without a photograph": missing,
        "copies of photographs, which have the classes of all": again,
        f"photographs without a {'label' if args.by_folder else 'row'}": sorted({*photos} - {*found} - {*again}),
    }
    found |= dict.fromkeys(negatives, ())
    names = layout.fold_names(found)
    paths = {image_id: negatives.get(name, images / name) for image_id, name in names.items()}
    colours = mask_colours(masks, args.labelmap, classes) if masks else {}
    masks = find_masks(masks, names, copies) if masks else {}
    with layout.new_set(args.out, "voc12/make_dataset.py", args, made_of=photo_labels.made_of(args)) as folder:
        failures = Failures(args.on_error, folder / FAILED_FILE)
        sizes, shown = read_sizes(images, paths, masks, len(classes), colours, failures)
        labels = {image_id: found[names[image_id]] for image_id in sizes}
        pairs = [(paths[i], f"JPEGImages/{i}{Path(names[i]).suffix}") for i in sizes]
        layout.link_all(pairs, folder, args.out, args.copy)
        write_masks({i: masks[i] for i in shown}, colours, len(classes), folder, args.out, args.copy)
        val = choose_part({image_id: labels[image_id] for image_id in shown}, args.val, args.seed)
        lists = {"train": sorted(set(labels) - set(val)), "val": val, "masks": sorted(set(shown) - set(val))}
        lists = {name: ids for name, ids in lists.items() if ids}
        layout.write_set(folder, classes, labels, lists)
    warn_of_other_labels(shown, labels)
    Failures(args.on_error, Path(args.out) / FAILED_FILE).report()
    layout.print_set(args.out, classes, labels, lists, sizes, left_out)


if __name__ == "__main__":
    run_script(main, get_args_parser())
