"""An experiment: every path below experiment/NAME, and what it remembers for its later stages.

experiment/NAME/settings.json   flags that train.py was given (or the stage that came first): a flag that contradicts
                                them is refused; the names of the classes, so that it can go without its data
                                set; "chosen": what choose.py chose, where flags that are given win
VOC12_ROOT/classes.txt, cls_labels.npy, ImageSets/Segmentation/{train,val,masks}.txt   --classes, --cls_labels, lists;
                                masks.txt: the images of train.txt that have masks, where not all of them do

For VOC itself, told by the kit's ImageSets/Main/trainval.txt, the released defaults stay.
"""

import argparse
import os
import shlex
from pathlib import Path

from models.trained import classifier_place, place_with_best, segmentation_place
from tool.cli import fraction, natural, one_of, positive, power, shown
from tool.io.files import UserError, portable, read_json, write_json
from tool.par import REFINEMENTS
from tool.results import MADE_BY
from voc12.classes import CLASS_NAMES, load_classes

SEGMENTED = ("seg", "seg_crf")  # folders of the segmentation network's labels, without and with CRF
CHOSEN = "chosen"  # what of settings.json is choose.py's
CHOICES = {"threshold": fraction, "low": power, "high": power, "dup": power, "alphas": power, "beta": positive}
CHOICES |= {"sxy": positive, "srgb": positive, "sxy_side": natural, "refine": one_of(REFINEMENTS)}
VOC_ROOT, VOC_LABELS = "./data/VOC2012", "voc12/cls_labels.npy"


class Experiment:
    """The folder ROOT/NAME; its properties and methods are the paths below it."""

    def __init__(self, root, name):
        self.folder = Path(root) / name
        self.settings = self.folder / "settings.json"
        self.maps, self.overlays = self.folder / "dict", self.folder / "vis"
        self.report, self.curve = self.folder / "report", self.folder / "curve.json"
        self.classifier = classifier_place(self.folder)

    @classmethod
    def of(cls, args):
        """The experiment of a stage's arguments."""
        return cls(args.experiment, args.name)

    def crf(self, alpha):
        return self.folder / "crf" / f"{alpha:02d}"

    def crf_labels(self, alphas):
        return self.folder / "crf_png" / "_".join(f"{alpha:02d}" for alpha in alphas)

    def affinity(self, powers):
        """powers: (low, high, dup)."""
        name = "aff{:02d}{:02d}{:02d}".format(*powers)
        return place_with_best(self.folder / "ckpt_aff" / name, f"log_{name}")

    def walk(self, powers, overlays=False):
        return self.folder / ("rw_vis" if overlays else "rw") / "{:02d}_{:02d}{:02d}".format(*powers)

    def segmentation(self, arch):
        return segmentation_place(self.folder, arch)

    def segmented(self, arch, crf=False, overlays=False):
        """Labels of the segmentation network; of photographs of no data set without arch."""
        name = SEGMENTED[crf] + "_vis" * overlays
        return portable(self.folder / name / arch) if arch else self.folder / name

    def labels(self, name):
        """A folder of label masks: below the experiment's, or, where there is no such, from here. UserError without."""
        for folder in (portable(self.folder / name), Path(name)):
            if folder.is_dir():
                return folder
        text = "no such folder; infer_aff.py writes one, or give a path to masks"
        raise UserError(f"--labels: {self.folder / name}: {text}")


BELOW = Experiment("", "")  # its paths are those below any experiment


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
    values, stored = {name: getattr(args, name) for name in args.remembered}, read_settings(path, args.remembered)
    anew = args.begins and getattr(args, "overwrite", False)  # what was chosen is of the maps that go
    if (args.begins or not stored) and (stored != values or anew):
        chosen = read_settings(path, {CHOSEN: dict})  # of maps of another method, which were there first
        names = {CLASS_NAMES: list(load_classes(args.classes))}
        write_json(path, values | names | ({} if stored else chosen))


def fits(name, value):
    """Whether a value of CHOICES is what its flag takes; --alphas takes several."""
    if isinstance(value, list) != (name == "alphas") or value == []:
        return False
    values = value if name == "alphas" else [value]
    if any(isinstance(one, str) != (name == "refine") for one in values):
        return False
    try:
        return all(CHOICES[name](str(one)) is not None for one in values)
    except argparse.ArgumentTypeError:
        return False


def read_chosen(experiment):
    """What choose.py chose, {flag's dest: value}, and on what, "20 masks of few.txt"; ({}, "") where nothing was.

    UserError: damaged.
    """
    kept = read_settings(experiment.settings, {CHOSEN: dict}).get(CHOSEN, {})
    values = {name: kept[name] for name in CHOICES if name in kept}
    for name, value in values.items():
        if not fits(name, value):
            raise UserError(f"{experiment.settings}: {name} is {str(value)[:50]!r}; run choose.py again")
    return values, str(kept.get("of", ""))


def write_chosen(experiment, values, about, figures):
    """Keep what was chosen, and how it scored. values: {flag's dest: value}; about: of how many masks of which list."""
    path = experiment.settings
    settings = read_json(path) if path.is_file() else {}
    write_json(path, settings | {CHOSEN: values | {"of": about, "figures": figures}})


def describe_chosen(values, about):
    """The line of a stage that takes them as defaults."""
    return f"choose.py chose on {about}: {' '.join(f'--{name} {shown(value)}' for name, value in values.items())}"


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
    """Whether a flag's value is the stored one; of files, whether they are one or hold the same bytes or names."""
    if flag == stored or (key == "cls_labels" and stored is None):  # a table of what the XMLs say
        return True
    if not isinstance(flag, str) or not isinstance(stored, str):
        return False
    files = [Path(flag), Path(stored)]
    if os.path.realpath(flag) == os.path.realpath(stored):
        return True
    if not all(path.is_file() for path in files):
        return False
    if key == "classes":
        return load_classes(flag) == load_classes(stored)
    return files[0].read_bytes() == files[1].read_bytes()


# ---------------------------------------------------------------- the command of the next stage

AFTER_SCORING = {
    "cam": "infer.py --crf with several --alphas, to choose three of them",
    "crf": "train_aff.py; --dup is usually the best of the powers, --low and --high are below and above it",
    "png": "train_seg.py, with this folder as its --labels",
}
UNREMEMBERED = {"voc12_root": VOC_ROOT, "classes": None, "trunk": "resnet38d", "output_stride": None, "width": 1.0}


def next_command(script, args, **flags):
    """The command of the next stage, to be pasted into a shell; what its experiment remembers is left out.

    args: of this stage. flags: the next one's own; True where one has no value, None where it is left out. What an
    experiment has of a published checkpoint it does not remember, nor where a data set has moved to.
    """
    settings, words = Experiment.of(args).settings, ["python", script]
    stored = read_settings(settings, args.remembered)
    own = {"name": args.name, "experiment": None if args.experiment == "experiment" else args.experiment}
    if script.startswith(("train", "infer")) and getattr(args, "on_error", "stop") != "stop":
        own["on_error"] = args.on_error  # what is broken here is broken there
    for name, default in UNREMEMBERED.items():
        value = getattr(args, name, None)
        of_trunk = name in ("trunk", "output_stride", "width")
        known = value in (None, stored.get(name, default), str(settings))
        if not known and not (of_trunk and script == "evaluation.py"):
            own[name] = value
    for name, value in (own | flags).items():
        if value is not None:  # one word where the value begins like a flag
            joined = value is not True and str(value).startswith("-")
            words += [f"--{name}={value}"] if joined else [f"--{name}", *([] if value is True else [str(value)])]
    return shlex.join(words)


def scored_list(path):
    """The list to score results of a list with: of training images, VOC's or one's own, not all may have masks."""
    own = Path(path).with_name("masks.txt")
    if Path(path).name == "train.txt" and own.is_file():
        return str(own)
    return "voc12/train.txt" if path == "voc12/train_aug.txt" else path


def scored_of(task, dict_dir):
    """What makes a folder of results below an experiment, and what follows when it is scored; None where nothing does.

    task: evaluation.py's.
    """
    if task == "png" and Path(dict_dir).parts[0] in SEGMENTED:
        return "infer_seg.py", None
    alpha = Path(dict_dir).name
    alphas = f" --alphas {int(alpha)}" if task == "crf" and alpha.isdigit() else ""
    return MADE_BY[task] + alphas, AFTER_SCORING[task]


# ---------------------------------------------------------------- the data set


def is_voc(root):
    """Whether a data set is VOC itself, or says of itself nothing else."""
    lists = root / "ImageSets"
    return (lists / "Main" / "trainval.txt").is_file() or not (lists / "Segmentation" / "train.txt").is_file()


def has_voc_classes(root):
    """Whether the paper's settings are meant for its photographs: VOC itself, or a set without names of its own."""
    return is_voc(root) or not (root / "classes.txt").is_file()


def folder_defaults(root, splits):
    """{argument: value} that a data set's folder says of itself.

    splits: {list argument: "train", "val", or "masks", which is train where there is no such list}.
    """
    own = {"classes": root / "classes.txt", "cls_labels": root / "cls_labels.npy"}
    values = {"cls_labels": VOC_LABELS if Path(VOC_LABELS).exists() else None}
    if not is_voc(root):
        values["cls_labels"] = None  # VOC's table knows nothing of these images
        for key, split in splits.items():
            path = root / "ImageSets" / "Segmentation" / f"{split}.txt"
            if split == "masks" and not path.is_file():
                path = path.with_name("train.txt")
            values[key] = str(path) if path.is_file() else "none"
    return values | {key: str(path) for key, path in own.items() if path.is_file()}


def expand_list(value, root):
    """`train`, a name without slash or suffix, is the data set's ImageSets/Segmentation/train.txt (as released)."""
    if value == "none" or "/" in value or "." in value or Path(value).is_file():
        return value
    return str(Path(root) / "ImageSets" / "Segmentation" / f"{value}.txt")


def named(stored, settings):
    """What an experiment remembers, with its own names of the classes where the file they came from is gone."""
    path = stored.get("classes")
    gone = path and not Path(path).is_file() and settings.is_file() and CLASS_NAMES in read_json(settings)
    return stored | {"classes": str(settings)} if gone else stored


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
