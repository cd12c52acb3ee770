"""Defaults of flags that are not given: what the experiment was started with, else what the data set's folder says.

experiment/NAME/settings.json   {"voc12_root", "classes", "cls_labels", "width", "trunk", "output_stride", "pool"},
                                written by train.py: a flag that contradicts it is refused
VOC12_ROOT/classes.txt, cls_labels.npy, ImageSets/Segmentation/{train,val}.txt   --classes, --cls_labels, list flags

For VOC itself, told by the kit's ImageSets/Main/trainval.txt, the released defaults stay.
"""

import os
from pathlib import Path

from tool.io.files import UserError, read_json, write_json

SETTINGS_FILE = "settings.json"
REMEMBERED = {"voc12_root": str, "classes": str | None, "cls_labels": str | None}
NETWORK = {"width": float | int, "trunk": str, "output_stride": int | None, "pool": str}
REMEMBERED |= NETWORK


def settings_path(args):
    (path,) = settings_paths(args)
    return path


def settings_paths(args):
    """Of the experiments that a stage works on: one, or what evaluation.py is given."""
    names = args.name if isinstance(args.name, list) else [args.name] if args.name else []
    return [Path(args.experiment) / name / SETTINGS_FILE for name in names]


def read_settings(path):
    """What an experiment remembers: {} where the file is missing; UserError where it is damaged."""
    if not path.is_file():
        return {}
    stored = read_json(path)
    if not isinstance(stored, dict):
        raise UserError(f"{path}: not the settings of an experiment; remove it, and give the flags again")
    for key, kind in REMEMBERED.items():
        if key in stored and not isinstance(stored[key], kind):
            raise UserError(f"{path}: {key} is {str(stored[key])[:50]!r}; correct it, or remove the file")
    return {key: stored[key] for key in REMEMBERED if key in stored}


def read_common(paths, args):
    """What experiments remember of this stage's arguments; UserError where two of them were of different data."""
    common = {}
    for path in paths:
        for key, value in read_settings(path).items():
            if key in common and hasattr(args, key) and not same(key, value, common[key]):
                raise UserError(
                    f"{path}: {key} is {value}, that of {paths[0].parent.name} is {common[key]}; experiments with one "
                    "list and classes can be scored together"
                )
            common.setdefault(key, value)
    return common


def begins_anew(args):
    """Whether the first stage forgets what its experiment remembers: told to, or nothing was trained yet."""
    anew = args.overwrite and not getattr(args, "resume", False)  # both: the run goes on where it can
    return anew or not any((Path(args.experiment) / args.name / "ckpt").glob("*.pth"))


def fill_defaults(parser, args, given):
    """Set the arguments that were not given: from the experiment's settings, then from the data set's folder.

    given: names of the flags on the command line. UserError where a flag contradicts the experiment.
    """
    paths = settings_paths(args)
    stored = {} if parser.begins and begins_anew(args) else read_common(paths, args)
    if "voc12_root" in given and "voc12_root" in stored:
        stored = moved(stored, args.voc12_root)
    for key, value in stored.items():
        if key in given and not same(key, getattr(args, key), value):
            raise UserError(
                f"--{key} {getattr(args, key)}: {paths[0]} has {key} {value}{trained(paths[0])}; leave the flag "
                "out or take another --name (where data was moved: change that file)"
            )
        if hasattr(args, key) and key not in given:
            setattr(args, key, value)
    known = {*given, *stored}
    for key, value in folder_defaults(Path(args.voc12_root), parser.splits).items():
        if hasattr(args, key) and key not in known:
            setattr(args, key, value)
            known.add(key)
    if hasattr(args, "cls_labels") and "cls_labels" not in known and not Path(args.cls_labels).exists():
        args.cls_labels = None
    for key in parser.splits:
        setattr(args, key, expand_list(getattr(args, key), args.voc12_root))


def trained(path):
    """Which checkpoint the experiment of a settings file has already, in words."""
    checkpoints = sorted((path.parent / "ckpt").glob("*net_main.pth"))
    return f", as {checkpoints[-1].name} was trained" if checkpoints else ""


def folder_defaults(root, splits):
    """{argument: value} that a data set's folder says of itself. splits: {list argument: "train" or "val"}."""
    own = {"classes": root / "classes.txt", "cls_labels": root / "cls_labels.npy"}
    values = {key: str(path) for key, path in own.items() if path.is_file()}
    lists = root / "ImageSets"
    if (lists / "Main" / "trainval.txt").is_file() or not (lists / "Segmentation" / "train.txt").is_file():
        return values
    for key, split in splits.items():
        path = lists / "Segmentation" / f"{split}.txt"
        values[key] = str(path) if path.is_file() else "none"
    return {"cls_labels": None} | values  # VOC's table knows nothing of these images


def expand_list(value, root):
    """`train`, a name without slash or suffix, is the data set's ImageSets/Segmentation/train.txt (as released)."""
    if value == "none" or "/" in value or "." in value or Path(value).is_file():
        return value
    return str(Path(root) / "ImageSets" / "Segmentation" / f"{value}.txt")


def same(key, flag, stored):
    """Whether a flag's value is the stored one; of files, whether they are one or hold the same bytes."""
    if flag == stored or (key == "cls_labels" and stored is None):  # a table of what the XMLs say
        return True
    if key in NETWORK or flag is None or stored is None:
        return False
    files = [Path(flag), Path(stored)]
    if os.path.realpath(flag) == os.path.realpath(stored):
        return True
    return all(path.is_file() for path in files) and files[0].read_bytes() == files[1].read_bytes()


def moved(stored, root):
    """What an experiment remembers, its data now at `root`, where that is a copy of the data set or its new place."""
    old = stored["voc12_root"]
    if os.path.realpath(old) == os.path.realpath(root) or not is_copy(Path(root), Path(old)):
        return stored
    inside = {k: stored[k] for k in ("classes", "cls_labels") if stored.get(k) and Path(stored[k]).is_relative_to(old)}
    there = {k: str(Path(root) / Path(path).relative_to(old)) for k, path in inside.items()}
    return stored | {"voc12_root": str(root)} | there


def is_copy(new, old):
    """Whether two folders hold the same data set: the old one is gone, or most photographs of one name are alike."""
    photos = new / "JPEGImages"
    if not old.exists():
        return photos.is_dir()
    if not photos.is_dir() or not (old / "JPEGImages").is_dir():
        return False
    both = sorted(set(os.listdir(photos)) & set(os.listdir(old / "JPEGImages")))[:50]
    alike = [(photos / name).stat().st_size == (old / "JPEGImages" / name).stat().st_size for name in both]
    return sum(alike) * 2 > len(both)


def remember(args, keep=False):
    """Write what later stages of the experiment take their defaults from; called by the first stage.

    keep: of a later stage, which is the first one where labels come from elsewhere: leave what is there.
    """
    path = settings_path(args)
    values = {key: getattr(args, key) for key in REMEMBERED if hasattr(args, key)}
    if read_settings(path) != values and not (keep and path.is_file()):
        write_json(path, values)
