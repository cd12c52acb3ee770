"""What the scripts that make a data set in VOC layout share: IDs, links, lists, and an output that is whole or absent.

JPEGImages/ID.* (links to the photographs), SegmentationClass/ID.png, classes.txt, cls_labels.npy,
ImageSets/Segmentation/train.txt, val.txt and masks.txt, and dataset.json, which says what made the folder.
"""

import contextlib
import functools
import itertools
import os
import re
import shlex
import shutil
from collections import Counter
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from tqdm import tqdm

from tool import VERSION
from tool.io.files import BYTE_ORDER_MARK, CONTROL, UserError, print_warning, without_suffix, write_json, write_text
from tool.io.images import SUFFIXES
from tool.io.lock import hold, lock_path
from voc12.labels import write_cls_labels

MADE = "dataset.json"
MAX_ID = 200  # bytes; file names end at 255, and a suffix and the name of a temporary file are added
# Not in IDs: blanks, where many tools split the lines of lists, and what no list may hold.
NO_ID = re.compile(rf"[\s\\{BYTE_ORDER_MARK}]|{CONTROL.pattern}")


def fold_id(name):
    """ID of the file `name`, a relative path with slashes and no suffix: a/b -> a__b, my photo -> my_photo."""
    return NO_ID.sub("_", name.replace("/", "__"))


def fold_names(names):
    """{ID: name} of file names with suffixes, sorted by ID; UserError where two become one ID, or one is too long."""
    folded = {}
    for name in names:
        image_id = fold_id(without_suffix(name))
        if image_id in folded:
            raise UserError(f"{name} and {folded[image_id]} would both have the ID {image_id}; rename one of the files")
        if len(os.fsencode(image_id)) > MAX_ID:
            raise UserError(f"{name}: its ID, folders included, is longer than {MAX_ID} bytes; shorten the names")
        folded[image_id] = name
    return dict(sorted(folded.items()))


def find_photographs(images, without=(), say=print_warning):
    """{path relative to the folder `images`: None} of all photographs below it, told by suffix, sorted.

    Hidden files and folders, data sets made here and the folders `without` are passed over; other files are counted and
    named by suffix in one line to `say`; links to folders are followed. UserError where there are none.
    """
    if not Path(images).is_dir():
        raise UserError(f"{images}: no such folder")
    photos, others, seen = [], Counter(), {os.path.realpath(folder) for folder in without}
    for here, folders, names in os.walk(images, followlinks=True, onerror=_raise):
        real = os.path.realpath(here)
        if MADE in names and "ImageSets" in folders and Path(here) != Path(images):
            seen.add(real)  # such as one that --overwrite kept
            say(f"{here}: is passed over, a data set made of photographs")
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        for name in names if real not in seen else ():
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                photos.append((Path(here) / name).relative_to(images).as_posix())
            elif not name.startswith("."):
                others[Path(name).suffix.lower()] += 1
        seen.add(real)
    passed = ", ".join(
        f"{count} {CONTROL.sub('?', suffix) or 'without suffix'}" for suffix, count in others.most_common()
    )
    if not photos:
        passed = passed and f"; passed over: {passed}"
        raise UserError(f"{images}: no photographs there ({', '.join(SUFFIXES)}){passed}")
    if passed:
        text = f"{others.total()} files are passed over: {passed}; convert what is a photograph to JPEG"
        say(f"{images}: {text}")
    return dict.fromkeys(sorted(photos))


def check_suffix(path):
    """UserError where no stage would find this photograph."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: not the suffix of an image that is read ({', '.join(SUFFIXES)}); convert it")


def find_labels(folder):
    """{ID: path} of the label masks (ID.png) in a folder and below it; UserError where there are none."""
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: no such folder")
    hint = "labels are ID.png, as infer_aff.py and infer_seg.py write them"
    return find_files(folder, ".png", f"no label masks there; {hint}")


def find_files(folder, suffix, otherwise):
    """{ID: path} of the files ID.suffix in a folder and below it; UserError, in these words, where there are none."""
    paths = sorted(path for path in Path(folder).rglob(f"*{suffix}") if not path.name.startswith("."))
    if not paths:
        raise UserError(f"{folder}: {otherwise}")
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def warn_of_empty_folders(images, photos, without=()):
    """Say which folders in `images` gave none of the `photos`, relative paths. without: folders that need not."""
    given = {photo.split("/")[0] for photo in photos}
    apart = {os.path.realpath(folder) for folder in without}
    for folder in sorted(path for path in Path(images).iterdir() if path.is_dir()):
        if folder.name not in given and not folder.name.startswith(".") and os.path.realpath(folder) not in apart:
            print_warning(f"{folder}: no photograph there, so it gives no class")


def _raise(error):
    raise error


# ---------------------------------------------------------------- the folder


def check_out(out, overwrite):
    """UserError where `out` holds something already that is not to be, or may not be, replaced."""
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; --out takes a folder")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / MADE).is_file():
        raise UserError(f"{out}: holds files that none of these scripts made; choose another --out")
    if not overwrite:
        raise UserError(f"{out}: is a data set already; --overwrite makes it anew and keeps the old one beside it")


@contextlib.contextmanager
def new_set(out, script, args, **facts):
    """Give a folder beside `out` to fill; it becomes `out` when all is done, and is removed where anything fails.

    A data set that is there already, see `check_out`, is kept under another name: users put files of their own into
    such folders. script, args, facts: what dataset.json says of its making. What a killed run left is removed at the
    start.
    """
    check_out(out, args.overwrite)
    final = Path(os.path.realpath(out))  # `out` may be a link to a larger disk
    folder = final.with_name(f".{final.name}.making")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be made there ({error.strerror}); choose another --out") from None
    with hold(folder):
        try:
            shutil.rmtree(folder)
            folder.mkdir()
            yield folder
            write_json(folder / MADE, {"made_by": script, "version": VERSION, "arguments": vars(args)} | facts)
            if final.is_dir() and any(final.iterdir()):
                names = (f"{final.name}.old{k if k > 1 else ''}" for k in itertools.count(1))
                kept = next(path for path in map(final.with_name, names) if not path.exists())
                final.rename(kept)
                print(f"{kept}: the data set that was there; remove it when you no longer need it")
            folder.rename(final)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock_path(folder).unlink(missing_ok=True)


def link_all(pairs, folder, final, copy=False):
    """Put each source at its target: pairs of (path of a file, path inside the data set).

    folder: where the data set is being made; final: where it will be, which is what the relative links hold for.
    copy: copies instead; also made, with a warning, where the file system has no links.
    """
    realpath = functools.cache(os.path.realpath)
    for source, target in tqdm(pairs, desc="copies" if copy else "links", disable=None):
        source, target = Path(source), Path(target)
        (folder / target.parent).mkdir(parents=True, exist_ok=True)
        if not copy:
            here, there = realpath(source.parent), realpath(Path(final) / target.parent)
            try:
                os.symlink(os.path.join(os.path.relpath(here, there), source.name), folder / target)
                continue
            except (OSError, ValueError) as error:  # the latter: Windows, another drive
                print_warning(f"{final}: no links can be made there ({error}); copying")
                copy = True
        shutil.copyfile(source, folder / target)


def write_set(folder, classes, labels, lists):
    """Labels and lists of a data set. labels: {ID: class indices}; lists: {"train": IDs, ...}."""

    @functools.cache  # a million images share some thousand combinations of classes
    def vector(indices):
        return np.isin(np.arange(len(classes)), indices).astype(np.float32)

    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in classes))
    write_cls_labels(folder / "cls_labels.npy", {image_id: vector(indices) for image_id, indices in labels.items()})
    for name, ids in lists.items():
        write_text(folder / "ImageSets" / "Segmentation" / f"{name}.txt", "".join(f"{i}\n" for i in ids))


# ---------------------------------------------------------------- what is printed


def first_names(names):
    """The first names of many, for a message."""
    shown = ", ".join(CONTROL.sub("?", str(name)) for name in names[:3])
    return f"{shown}, ..." if len(names) > 3 else shown


def print_set(out, classes, labels, lists, sizes, left_out=None):
    """What a data set holds, and what to do with it.

    labels: {ID: class indices}; lists: {name: IDs}; sizes: {ID: (w, h)}; left_out: {what is not in it: names}.
    """
    print_classes(classes, labels, lists)
    sides = np.sort(np.array(list(sizes.values())), axis=0)
    low, middle, high = (" x ".join(map(str, sides[k])) for k in (0, len(sides) // 2, -1))
    print(f"width x height in pixels: smallest {low}, median {middle}, largest {high} (each side by itself)")
    for what, names in (left_out or {}).items():
        if names:
            print(f"left out: {len(names)} {what} ({first_names(names)})")
    for name, ids in lists.items():
        print(f"{Path(out) / 'ImageSets' / 'Segmentation' / name}.txt: {len(ids)} images")
    name = os.path.basename(os.path.abspath(out))
    command = ["python", "train.py", "--name", name, "--voc12_root", str(out), "--trunk", "timm:tf_efficientnet_lite0"]
    print(f"next: {shlex.join(command)}")


def print_classes(classes, labels, lists):
    """A table of the images a class, in all and in each list. labels: {ID: class indices}."""
    counts = np.zeros((1 + len(lists), len(classes)), np.int64)
    for row, ids in enumerate([labels, *lists.values()]):
        for image_id in ids:
            counts[row, list(labels[image_id])] += 1
    width = max(len("class"), *map(len, classes))
    print("  ".join([f"{'class':{width}}", "images", *(f"{name:>6}" for name in lists)]))
    for k in np.flatnonzero(counts[0]):
        print("  ".join([f"{classes[k]:{width}}", *(f"{n:6}" for n in counts[:, k])]))
    absent = [name for name, count in zip(classes, counts[0], strict=True) if not count]
    if absent:
        print(f"no image shows {len(absent)} of the {len(classes)} classes ({first_names(absent)})")
    several = sum(len(indices) > 1 for indices in labels.values())
    print(f"{len(labels)} images, {several} of them with several classes")
    negatives = [image_id for image_id, indices in labels.items() if not indices]
    if negatives:
        print(f"{len(negatives)} of them show none of the classes ({first_names(negatives)})")


# ---------------------------------------------------------------- annotations


def annotation(image_id, size, objects):
    """The VOC XML of an image of `size` (w, h). objects: (class name, (xmin, ymin, xmax, ymax)), pixels from 1."""
    lines = [
        "<annotation>",
        "\t<folder>VOC2012</folder>",
        f"\t<filename>{escape(image_id)}.jpg</filename>",
        f"\t<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>",
        "\t<segmented>1</segmented>",
    ]
    for name, (xmin, ymin, xmax, ymax) in objects:
        box = f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
        lines.append(f"\t<object><name>{name}</name><difficult>0</difficult><bndbox>{box}</bndbox></object>")
    return "\n".join([*lines, "</annotation>", ""])
