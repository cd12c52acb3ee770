"""An experiment: every path below experiment/NAME, and what it remembers for its later stages.

experiment/NAME/settings.json   flags that train.py was given (or the stage that came first): a flag that contradicts
                                them is refused
VOC12_ROOT/classes.txt, cls_labels.npy, ImageSets/Segmentation/{train,val}.txt   --classes, --cls_labels, list flags

For VOC itself, told by the kit's ImageSets/Main/trainval.txt, the released defaults stay.
"""

import os
import shlex
from pathlib import Path
from typing import NamedTuple

from tool.io.files import UserError, portable, read_json, write_json

VOC_ROOT, VOC_LABELS = "./data/VOC2012", "voc12/cls_labels.npy"


class Place(NamedTuple):
    """Where a training leaves its checkpoints (file: a name with {} for the epoch) and, in the experiment, its log.

    best: the path of best.pth, None for a training that has none.
    """

    folder: Path
    file: str
    log: str
    best: Path | None = None

    def checkpoint(self, epoch):
        return self.folder / self.file.format(epoch)

    def newest(self):
        """Checkpoints of epochs, the newest first."""
        return sorted(self.folder.glob(self.file.replace("{:03d}", "*").replace("{:02d}", "*")), reverse=True)

    def find(self, epoch):
        """Path of the checkpoint of an epoch; UserError says which epochs there are."""
        path = self.checkpoint(epoch)
        if not path.is_file():
            epochs = " ".join(str(int(other.name[:3])) for other in reversed(self.newest()))
            there = f"epochs there: {epochs}" if epochs else "no epoch is there; run train.py first"
            raise UserError(f"{path}: no such checkpoint; {there}")
        return path


def place_with_best(folder, log):
    return Place(folder, "{:02d}.pth", log, folder / "best.pth")


class Experiment:
    """The folder ROOT/NAME; its properties and methods are the paths below it."""

    def __init__(self, root, name):
        self.folder = Path(root) / name
        self.settings = self.folder / "settings.json"
        self.maps, self.overlays = self.folder / "dict", self.folder / "vis"
        self.report = self.folder / "report"
        self.classifier = Place(self.folder / "ckpt", "{:03d}net_main.pth", "log")

    @classmethod
    def of(cls, args):
        """The experiment of a stage's arguments."""
        return cls(args.experiment, args.name)

    def crf(self, alpha):
        return self.folder / "crf" / f"{alpha:02d}"

    def affinity(self, powers):
        """powers: (low, high, dup)."""
        name = "aff{:02d}{:02d}{:02d}".format(*powers)
        return place_with_best(self.folder / "ckpt_aff" / name, f"log_{name}")

    def walk(self, powers, overlays=False):
        return self.folder / ("rw_vis" if overlays else "rw") / "{:02d}_{:02d}{:02d}".format(*powers)

    def segmentation(self, arch):
        folder = portable(self.folder / "ckpt_seg" / arch)
        return place_with_best(folder, f"log_seg_{folder.name}")

    def segmented(self, arch, crf=False, overlays=False):
        """Labels of the segmentation network; of photographs of no data set without arch."""
        name = "seg" + "_crf" * crf + "_vis" * overlays
        return portable(self.folder / name / arch) if arch else self.folder / name

    def labels(self, name):
        """A folder of label masks: below the experiment's, or, where there is no such, from here. UserError without."""
        for folder in (portable(self.folder / name), Path(name)):
            if folder.is_dir():
                return folder
        text = "no such folder; infer_aff.py writes one, or give a path to masks"
        raise UserError(f"--labels: {self.folder / name}: {text}")


# ---------------------------------------------------------------- what an experiment remembers


def read_settings(path, kinds):
    """What an experiment remembers: {} where the file is missing; UserError where it is damaged.

    kinds: {name: type of its value}; others are left out.
    """
    if not path.is_file():
        return {}
    stored = read_json(path)
    if not isinstance(stored, dict):
        raise UserError(f"{path}: not the settings of an experiment; remove it, and give the flags again")
    stored = {key: stored[key] for key in kinds if key in stored}
    for key, value in stored.items():
        if not isinstance(value, kinds[key]):
            raise UserError(f"{path}: {key} is {str(value)[:50]!r}; correct it, or remove the file")
    return stored


def read_common(experiments, kinds):
    """What experiments remember; UserError where two of them were of different data."""
    common = {}
    for experiment in experiments:
        for key, value in read_settings(experiment.settings, kinds).items():
            if key in common and not same(key, value, common[key]):
                text = f"{experiment.settings}: {key} is {value}, that of {experiments[0].folder.name} is {common[key]}"
                raise UserError(f"{text}; experiments with one list and classes can be scored together")
            common.setdefault(key, value)
    return common


def remember(args):
    """Write what later stages of the experiment take their defaults from.

    A later stage, which is the first one where weights or labels come from elsewhere, leaves what is there.
    """
    path = Experiment.of(args).settings
    values = {name: getattr(args, name) for name in args.remembered}
    if (args.begins or not path.is_file()) and read_settings(path, args.remembered) != values:
        write_json(path, values)


def check_contradictions(args, experiment, stored):
    """UserError where an argument is not what the experiment remembers."""
    for key, value in stored.items():
        if not same(key, getattr(args, key), value):
            trained = [path.name for path in experiment.classifier.newest()[:1]]
            raise UserError(
                f"--{key} {getattr(args, key)}: {experiment.settings} has {key} {value}"
                f"{f', as {trained[0]} was trained' if trained else ''}; leave the flag out or take another --name "
                "(where data was moved: change that file)"
            )


def same(key, flag, stored):
    """Whether a flag's value is the stored one; of files, whether they are one or hold the same bytes."""
    if flag == stored or (key == "cls_labels" and stored is None):  # a table of what the XMLs say
        return True
    if not isinstance(flag, str) or not isinstance(stored, str):
        return False
    files = [Path(flag), Path(stored)]
    if os.path.realpath(flag) == os.path.realpath(stored):
        return True
    return all(path.is_file() for path in files) and files[0].read_bytes() == files[1].read_bytes()


# ---------------------------------------------------------------- the command of the next stage

UNREMEMBERED = {"voc12_root": VOC_ROOT, "classes": None, "trunk": "resnet38d", "output_stride": None, "width": 1.0}


def next_command(script, args, **flags):
    """The command of the next stage, to be pasted into a shell; what its experiment remembers is left out.

    args: of this stage. flags: the next one's own; True where one has no value, None where it is left out. What an
    experiment has of a published checkpoint it does not remember, nor where a data set has moved to.
    """
    stored, words = read_settings(Experiment.of(args).settings, args.remembered), ["python", script]
    own = {"name": args.name, "experiment": None if args.experiment == "experiment" else args.experiment}
    for name, default in UNREMEMBERED.items():
        value = getattr(args, name, None)
        of_trunk = name in ("trunk", "output_stride", "width")
        if value != stored.get(name, default) and not (of_trunk and script == "evaluation.py"):
            own[name] = value
    for name, value in (own | flags).items():
        if value is not None:  # one word where the value begins like a flag
            joined = value is not True and str(value).startswith("-")
            words += [f"--{name}={value}"] if joined else [f"--{name}", *([] if value is True else [str(value)])]
    return shlex.join(words)


def scored_list(path):
    """The list to score results of a list with: of the VOC's training images not all have masks."""
    return "voc12/train.txt" if path == "voc12/train_aug.txt" else path


# ---------------------------------------------------------------- the data set


def folder_defaults(root, splits):
    """{argument: value} that a data set's folder says of itself. splits: {list argument: "train" or "val"}."""
    own = {"classes": root / "classes.txt", "cls_labels": root / "cls_labels.npy"}
    values = {"cls_labels": VOC_LABELS if Path(VOC_LABELS).exists() else None}
    lists = root / "ImageSets"
    if not (lists / "Main" / "trainval.txt").is_file() and (lists / "Segmentation" / "train.txt").is_file():
        values["cls_labels"] = None  # VOC's table knows nothing of these images
        for key, split in splits.items():
            path = lists / "Segmentation" / f"{split}.txt"
            values[key] = str(path) if path.is_file() else "none"
    return values | {key: str(path) for key, path in own.items() if path.is_file()}


def expand_list(value, root):
    """`train`, a name without slash or suffix, is the data set's ImageSets/Segmentation/train.txt (as released)."""
    if value == "none" or "/" in value or "." in value or Path(value).is_file():
        return value
    return str(Path(root) / "ImageSets" / "Segmentation" / f"{value}.txt")


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
