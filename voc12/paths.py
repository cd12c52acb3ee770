"""Where photographs and masks of a data set in VOC layout lie, and whether those of a list are there."""

import contextlib
import os
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tool.io.files import IMAGE_SUFFIXES, UserError, after_id, missing_files, read_list, require_files
from tool.io.images import IGNORE, check_size, fit_mask, header_size, is_turned, mask_oddities, open_mask
from tool.results import Notes
from voc12.labels import load_labels
from voc12.layout import find_photographs, first_names, fold_id, fold_names

LOOKED_AT = 20_000  # photographs whose headers are read to say how many are turned; a second or two
MASKS_LOOKED_AT = 200  # of a list, before a training


def image_path(voc12_root, image_id):
    """Path of a photograph: JPEGImages/ID with a suffix of IMAGE_SUFFIXES; ID.jpg where there is none.

    An ID with slashes lies in a folder below JPEGImages. UserError where two files have this ID.
    """
    return Path(_find_image(os.path.join(voc12_root, "JPEGImages"), image_id))


def _find_image(folder, image_id):
    """image_path below `folder`, as text: to make a Path takes longer than all the rest."""
    if "/" in image_id:
        folder, image_id = os.path.split(f"{folder}/{image_id}")
    try:
        suffixes, doubled = list_suffixes(folder, os.stat(folder).st_mtime_ns)
    except OSError:  # what is wrong is said where the photograph is opened
        suffixes, doubled = {}, ()
    if image_id in doubled:
        raise UserError(f"{folder}: two images of the ID {image_id}, with different suffixes; remove or rename one")
    return f"{folder}/{image_id}{suffixes.get(image_id, '.jpg')}"


@lru_cache(maxsize=1024)
def list_suffixes(folder, changed):
    """({stem: suffix} of the images in a folder that are not called stem.jpg, stems that several images have).

    changed: the folder's modification time; a folder is listed once, and again when files came or went.
    """
    plain, suffixes, doubled = set(), {}, set()
    for name in os.listdir(folder):
        stem, suffix = os.path.splitext(name)
        if suffix == ".jpg":
            plain.add(stem)
        elif suffix.lower() in IMAGE_SUFFIXES:
            doubled.update({stem} & suffixes.keys())
            suffixes[stem] = suffix
    return suffixes, doubled | (plain & suffixes.keys())


def mask_path(voc12_root, image_id, gt_dir="SegmentationClass"):
    return Path(voc12_root) / gt_dir / f"{image_id}.png"


def true_mask(voc12_root, image_id, num_labels, size):
    """The mask of a photograph of `size` (h, w), H x W uint8; UserError where it is broken or of another size."""
    mask = fit_mask(open_mask(mask_path(voc12_root, image_id), num_labels), size, image_path(voc12_root, image_id))
    check_size(mask, size, image_id)
    return mask


def usual_side(paths):
    """Median of the longer sides of photographs, pixels, by the headers of a thousand of them; unreadable ones do not
    count, and where none can be read it is 0."""
    sides = []
    for path in paths[:: -(-len(paths) // 1000) or 1]:
        with contextlib.suppress(UserError):
            sides.append(max(header_size(path)))
    return int(np.median(sides or [0]))


def mask_finder(voc12_root, gt_dir):
    """`mask_path` of an ID, for --gt_dir: below the data set, or, where it has no such folder, from here."""
    is_own = (Path(voc12_root) / gt_dir).is_dir() or not Path(gt_dir).is_dir()
    return partial(mask_path, voc12_root, gt_dir=gt_dir if is_own else Path(gt_dir).absolute())


def check_images(ids, voc12_root):
    """Say how many images are stored turned; UserError where some do not exist, or two files have the ID of one."""
    say_turned(require_images(ids, voc12_root))


def say_turned(paths):
    """How many photographs, by their paths, are stored otherwise than viewers show them; of the first LOOKED_AT."""
    looked = list(paths)[:LOOKED_AT]
    turned = [Path(path).name for path in looked if is_turned(path)]
    if turned:
        text = (
            f"{len(turned)} of {len(looked)} photographs are stored turned, as their EXIF says ({first_names(turned)})"
        )
        print(f"{text}: they are seen as viewers show them", flush=True)


def require_images(ids, voc12_root):
    """Paths of the images of a list; UserError as `check_images`."""
    folder = os.path.join(voc12_root, "JPEGImages")
    paths = {i: _find_image(folder, i) for i in ids}
    require_files(paths, "image", "check --voc12_root and the list (one ID a line)")
    return paths.values()


def find_images(images, out):
    """{ID: path} of a photograph, or of all in a folder and below it; a/b.png there has the ID a__b.

    out: a folder that is passed over, since results may go into the folder itself. UserError where there are none, or
    two of one ID.
    """
    path = Path(images)
    if path.is_file():
        found = {fold_id(path.stem): path}
    elif path.resolve() == Path(out).resolve():
        raise UserError(f"--out {out}: is --images itself; give a folder in it, or another")
    else:
        photographs = find_photographs(path, without=[out])
        found = {image_id: path / name for image_id, name in fold_names(photographs).items()}
    say_turned(found.values())
    return found


class Images(NamedTuple):
    """What is labelled. photograph, maps: functions ID -> path; maps is for stages that read stored ones.

    labels: {ID: vector of 0 and 1} where it is known beforehand which classes an image shows.
    """

    ids: list
    photograph: object
    maps: object = None
    labels: object = None


def images_of(args, failures):
    """Images of --images, or of --infer_list, of which missing ones go to the failures; UserError where all do."""
    if args.images:
        found = find_images(args.images, args.out)
        return Images(list(found), found.get)
    ids = read_list(args.infer_list)
    if failures.skip:
        usable = failures.usable(ids, lambda image_id: require_images([image_id], args.voc12_root))
        if not usable:
            reason = failures.noted[-1].split("\t")[1]
            raise UserError(f"no image is left: all {len(ids)} failed, the last with: {reason}")
        ids = usable
    else:
        check_images(ids, args.voc12_root)
    return Images(ids, partial(image_path, args.voc12_root))


def with_labels(images, args, classes, failures):
    """Images and their image labels, for --labels given; those without a usable one go to the failures."""
    failed = failures.add if failures.skip else None
    labels = load_labels(images.ids, args.voc12_root, classes, args.cls_labels, failed)
    return images._replace(ids=list(labels), labels=labels)


def masked_ids(list_path, voc12_root, required=False):
    """IDs of a list with masks; None where there is no list, or none of its masks, unless they are required.

    No mask at all means a data set without masks, which is fine; some missing masks are a mistake.
    """
    if list_path == "none":
        return None
    ids = read_list(list_path)
    check_images(ids, voc12_root)
    masks = {i: mask_path(voc12_root, i) for i in ids}
    if not required and len(missing_files(masks)) == len(masks):
        return None
    require_files(masks, "mask", f"mend {list_path}, or --val_list none does without")
    say_odd_masks(masks.values())
    return ids


def say_odd_masks(paths):
    """Warn of masks that can hardly be meant as they are (`mask_oddities`); of many, MASKS_LOOKED_AT are looked at."""
    paths, notes = list(paths), Notes()
    for path in paths[:: -(-len(paths) // MASKS_LOOKED_AT) or 1]:
        with contextlib.suppress(UserError):  # said by who uses them
            notes.add(path, mask_oddities(open_mask(path, IGNORE)))
    notes.say()


def check_scores(ids, folder, list_path, hint, suffix="npy"):
    """UserError where files ID.suffix of an earlier stage are missing; counts them. hint: what to do about it."""
    missing = missing_files({i: f"{folder}/{i}.{suffix}" for i in ids})
    if missing:
        text = f"{folder}: nothing for {len(missing)} of {len(ids)} images of {list_path} (first {missing[0]})"
        raise UserError(f"{text}; {hint}{after_id(missing[0])}")
