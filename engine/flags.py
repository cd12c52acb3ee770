"""Flags: a parser that knows what each of them means for results, and those that several stages share."""

import argparse
import shlex
from functools import partial
from pathlib import Path
from typing import NamedTuple

from engine.distributed import local_processes
from engine.experiment import (
    VOC_ROOT,
    Experiment,
    check_contradictions,
    expand_list,
    folder_defaults,
    moved,
    read_common,
    read_settings,
)
from tool import cli
from tool.cam import MAX_SIDE
from tool.cli import fraction, natural, nonnegative, positive, positive_int, power, workers
from tool.io.files import UserError, print_warning
from tool.metrics import RELEASED_RANGE
from tool.workers import usable_cores

RESULT, CONTENT, FREE = "result", "content", "free"
UNREMEMBERED = {"voc12_root": VOC_ROOT, "classes": None, "trunk": "resnet38d", "output_stride": None, "width": 1.0}
SWITCH = argparse.BooleanOptionalAction


class Meaning(NamedTuple):
    """What is said of a flag where it is added.

    role: RESULT, its value determines what is computed, so that a run which goes on must have the same; CONTENT, it
    names a file whose content does; FREE, neither. remembered: type of the value where the experiment's settings.json
    keeps it for later stages, else None.
    """

    role: str
    remembered: object


class Arguments(argparse.Namespace):
    """The arguments of a stage; its script, and what its Parser says of that and of its flags."""

    __slots__ = ("script", "begins", "remembers", "meanings")  # not among vars(), which are the arguments

    def __init__(self, parser):
        super().__init__()
        self.script, self.begins, self.remembers = parser.script, parser.begins, parser.remembers
        self.meanings = parser.meanings

    @property
    def results(self):
        """{name: value} of what determines results."""
        return {name: getattr(self, name) for name, meaning in self.meanings.items() if meaning.role == RESULT}

    @property
    def remembered(self):
        """{name: type} of what an experiment remembers."""
        return {name: meaning.remembered for name, meaning in self.meanings.items() if meaning.remembered}


class Parser(cli.Parser):
    """A script's flags, in groups: `parser.data("--flag", role=..., remembered=..., and what add_argument takes)`.

    Flags of the groups data, network, schedule and method determine results where nothing else is said; those of run
    do not.
    """

    def __init__(self, script, description, begins=False, remembers=False):
        """begins: whether the script is the first stage, which may start an experiment anew and writes its settings.

        remembers: whether it writes them where there are none.
        """
        super().__init__(script, description)
        self.begins, self.remembers = begins, begins or remembers
        groups = {name: self.add_argument_group(name) for name in ("data", "network", "schedule", "method", "run")}
        self.data, self.network, self.schedule, self.method = (
            partial(self.declare, groups[name]) for name in ("data", "network", "schedule", "method")
        )
        self.run = partial(self.declare, groups["run"], role=FREE)
        self.meanings = {}  # {dest of a flag: Meaning}
        self.splits = {}  # {dest of a list flag: name of the data set's own list that is its default}
        self.presets = {}  # {dest of a flag: {its value: {dest: default}}}
        self.ranges = []  # flags of MIN and MAX
        self.ignored = []  # released flags that change nothing

    def declare(self, group, *names, role=RESULT, remembered=None, **options):
        """A flag of a group; returns its dest. One of MIN and MAX has to be a range."""
        dest = group.add_argument(*names, **options).dest
        self.meanings[dest] = Meaning(role, remembered)
        if options.get("metavar") == ("MIN", "MAX"):
            self.ranges.append(dest)
        return dest

    def add_list(self, flag, default, split, text, role=CONTENT):
        """A flag for a list file. split: the list of a data set of one's own that is the default there."""
        text = f"{text} (default: the data set's own {split}.txt, for VOC {default})"
        self.splits[self.data(flag, role=role, type=str, default=default, help=text)] = split

    def add_presets(self, group, flag, presets, text):
        """A flag whose value sets the defaults of others. presets: {value: {dest: default}}, the default one first."""
        first = next(iter(presets))
        self.presets[group(flag, type=str, default=first, choices=list(presets), help=text)] = presets
        self.set_defaults(**presets[first])

    def ignore(self, *names):
        """Take flags of the released code that change nothing."""
        for name in names:
            self.run(f"--{name}", nargs="*", default=None, help=argparse.SUPPRESS)
            self.ignored.append(name)

    def parse_args(self, args=None, namespace=None):
        """Two passes: the first says which experiment, data set and presets; what these say are the second's defaults.

        UserError where a flag contradicts what the experiment remembers.
        """
        first = super().parse_args(args, Arguments(self))
        for name, presets in self.presets.items():
            self.set_defaults(**presets[getattr(first, name)])
        experiments, stored = [], {}
        if "voc12_root" in self.meanings:
            names = first.name if isinstance(first.name, list) else [first.name] if first.name else []
            experiments = [Experiment(first.experiment, name) for name in names]
            stored = self.stored(first, experiments)
            root = first.voc12_root or stored.get("voc12_root", VOC_ROOT)
            defaults = {"voc12_root": root} | folder_defaults(Path(root), self.splits) | stored
            self.set_defaults(**{name: value for name, value in defaults.items() if name in self.meanings})
        second = super().parse_args(args, Arguments(self))
        if stored:
            check_contradictions(second, experiments[0], stored)
        for name in self.ranges:
            low, high = getattr(second, name)
            if low > high:
                raise UserError(f"--{name} {low} {high}: MIN must not be above MAX")
        for name in self.splits:
            setattr(second, name, expand_list(getattr(second, name), second.voc12_root))
        for name in self.ignored:
            if getattr(second, name) is not None:
                print_warning(f"--{name} has no effect")
            delattr(second, name)
        return second

    def stored(self, first, experiments):
        """What the experiments remember, for a data set that may have moved. first: what the first pass gave."""
        if self.begins and begins_anew(first, experiments[0]):
            return {}
        stored = read_common(experiments, first.remembered)
        if first.voc12_root and "voc12_root" in stored:
            stored = moved(stored, first.voc12_root)
        return stored


def begins_anew(args, experiment):
    """Whether the first stage forgets what its experiment remembers: told to, or nothing was trained yet."""
    return (args.overwrite and not args.resume) or not experiment.classifier.newest()  # both: goes on where it can


def experiment_name(text):
    """A name that is one folder."""
    if not text or text in (".", "..") or "/" in text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not a name for a folder under --experiment")
    return text


# ---------------------------------------------------------------- flags of several scripts


def add_experiment(parser, name=None, several=False, required=True):
    """--name, --experiment. name: a default, without which the flag is required. several: none, one or more names."""
    text = "names of experiments, folders" if several else "name of the experiment, a folder"
    more = {"nargs": "+"} if several else {"required": required and name is None}
    parser.run("--name", type=experiment_name, default=name, help=text, **more)
    parser.run("--experiment", type=str, default="experiment", help="folder of all experiments")


def add_common(parser, random=True):
    """--name, --experiment, --device, --num_workers, --seed, --amp, --on_error, --check, --overwrite.

    random: whether results depend on the seed.
    """
    add_experiment(parser)
    add = parser.run
    add("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")
    text = "processes that load data, 0 = none (default: usable cores, at most 8)"
    add("--num_workers", type=workers, default=min(8, usable_cores()), help=text)
    add("--seed", role=RESULT if random else FREE, type=natural, default=0, help="seed of everything random")
    add("--amp", role=RESULT, action=SWITCH, default=False, help="bfloat16 autocast of the network")
    text = "a broken or missing file: stop the run, or leave its image out and list it in failed.txt"
    add("--on_error", "--on-error", type=str, default="stop", choices=["stop", "skip"], help=text)
    add_check(parser)
    add("--overwrite", action="store_true", help="delete what an earlier run of other settings left here")


def add_check(parser):
    text = "verify everything the run needs, time one step, estimate the whole; write nothing"
    parser.run("--check", action="store_true", help=text)


def add_data(parser, labels=True):
    """--voc12_root, --classes, and --cls_labels where image labels are read."""
    text = "data set in VOC layout: JPEGImages, Annotations, SegmentationClass (default: the experiment's, else "
    parser.data("--voc12_root", role=FREE, remembered=str, type=str, default=None, help=f"{text}{VOC_ROOT})")
    if labels:
        text = (
            "labels of voc12/make_cls_labels.py; IDs it lacks are read from Annotations "
            "(default: the data set's cls_labels.npy, for VOC voc12/cls_labels.npy, where there is one)"
        )
        parser.data("--cls_labels", role=CONTENT, remembered=str | None, type=str, default=None, help=text)
    text = "text file with one class name a line (default: the data set's classes.txt, else VOC's 20)"
    more = {"type": str, "default": None, "metavar": "FILE"}
    parser.data("--classes", role=CONTENT, remembered=str | None, help=text, **more)


def add_trunk(parser):
    """--trunk, --output_stride, --width: what the networks of the method stand on."""
    add = parser.network
    text = "resnet38d, or timm:NAME for a classifier of timm (default: the experiment's, else resnet38d)"
    add("--trunk", remembered=str, type=str, default="resnet38d", help=text)
    text = "pixels a cell of a timm CNN (default: the experiment's, else the trunk's own)"
    add("--output_stride", remembered=int | None, type=int, default=None, choices=[8, 16, 32], help=text)
    text = "factor on the channels of resnet38d, 1 = the paper's (default: the experiment's, else 1)"
    add("--width", remembered=float | int, type=positive, default=1.0, help=text)


def add_pool(parser):
    """--pool, which train.py and infer.py hand to the classifier."""
    pools = ["gap", "2", "4", "8", "16", "avg", "gpp_inverse", "gpp"]
    text = "pooling of the class maps; the paper's is gpp (default: the experiment's, else gpp)"
    parser.network("--pool", remembered=str, type=str, default="gpp", choices=pools, help=text)


def add_training(parser, epochs, crop_size, jitter, scratch_lr_mult):
    """What all trainings have: network, schedule, crops, optimiser, resuming; defaults as released."""
    add_trunk(parser)
    parser.network("--dropout", action=SWITCH, default=True, help="the trunk's dropout")
    square = {"type": positive_int, "nargs": "+", "action": Square}
    parser.data("--crop_size", "--crop", **square, default=crop_size, help="side of a training crop, pixels")
    names = ("BRIGHTNESS", "CONTRAST", "SATURATION", "HUE")
    text = "strengths of colour jitter"
    parser.data("--jitter", "--cj", type=nonnegative, nargs=4, default=jitter, metavar=names, help=text)
    add = parser.schedule
    text = "epochs of the whole run"
    add("--epochs", "--max_epochs", "--max_epoches", type=positive_int, default=epochs, help=text)
    text = "images a step, over all processes; in train.py before epoch T"
    add("--batch_size", type=positive_int, default=8, help=text)
    add("--optimizer", type=str, default="sgd", choices=["sgd", "adamw"], help="the paper's method uses sgd")
    add("--lr", type=positive, default=0.01, help="learning rate at step 0 of the poly schedule")
    text = "of SGD; AEFT's was released as 5e-4, because weight decay sits in momentum's place there"
    add("--momentum", type=fraction, default=5e-4, help=text)
    add("--wt_dec", type=nonnegative, default=5e-4, help="weight decay of weights; biases have none")
    text = "factor on the rate of layers without pretrained weights"
    add("--scratch_lr_mult", type=positive, default=scratch_lr_mult, help=text)
    add = parser.run
    text = "compute activations again in backward: much less memory, about a third more time"
    add("--checkpoint_activations", role=RESULT, action="store_true", help=text)
    text = "torch.compile the network (the first steps take long)"
    add("--compile", role=RESULT, action="store_true", help=text)
    text = "stop before this epoch, --resume goes on (for queues with a time limit)"
    add("--stop_epoch", type=natural, default=None, help=text)
    add("--resume", action="store_true", help="continue where the run was; start it if there is none; deletes nothing")
    text = "how many checkpoints of epochs stay, the newest; older ones of this run are deleted (default: all)"
    add("--keep", type=positive_int, default=None, metavar="N", help=text)
    parser.ignore("print_freq")


class Square(argparse.Action):
    """One side, or the two equal ones of the released --crop 320 320."""

    def __call__(self, parser, namespace, values, option_string=None):
        if len(values) > 2 or len(set(values)) > 1:
            parser.error(f"argument {option_string}: {' '.join(map(str, values))}: a crop is square, give its side")
        setattr(namespace, self.dest, values[0])


def add_labelling(parser, photographs=True):
    """--max_side, --crf_workers; photographs: --images and --out as well, for photographs of no data set."""
    add_max_side(parser)
    text = "processes for CRF, of each process that torchrun starts (default: usable cores)"
    cores = max(1, usable_cores() // local_processes())
    parser.run("--crf_workers", type=positive_int, default=cores, help=text)
    if photographs:
        text = "a photograph, or a folder of them with all below it, instead of --infer_list; results go to --out"
        parser.data("--images", role=FREE, type=str, default=None, metavar="PATH", help=text)
        text = "folder of the results of --images"
        parser.data("--out", role=FREE, type=str, default=None, metavar="DIR", help=text)


def add_max_side(parser):
    """--max_side, the same in every script that sees photographs at their own size."""
    text = "pixels; networks and CRF see a photograph whose longer side is above it at that size; results have its own "
    parser.method("--max_side", type=natural, default=MAX_SIDE, help=f"{text}size; 0 = never")


def add_arch(parser):
    text = (
        "network: deeplab_TRUNK (resnet38d or timm:NAME), or smp:ARCH:ENCODER of segmentation_models_pytorch, with a "
        "classifier of timm as encoder (default: deeplab_ on the experiment's trunk)"
    )
    parser.network("--arch", type=str, default=None, help=text)


def add_walk(parser):
    """--low, --high, --dup, --scale: what names and shapes an AffinityNet run."""
    add = parser.method
    add("--low", type=power, required=True, help="background power of the CRF with sure objects, 1 to 99")
    add("--high", type=power, required=True, help="background power of the CRF with sure background, 1 to 99")
    add("--dup", type=power, required=True, help="background power of the maps that are walked, 1 to 99")
    add("--scale", type=positive, default=1.0, help="factor on the image's sides before AffinityNet sees it")


def add_truth(parser):
    """--gt_dir, --thresholds: the masks that results are scored with, and what is chosen on them."""
    text = "folder of masks, below --voc12_root or any path"
    parser.data("--gt_dir", type=str, default="SegmentationClass", help=text)
    text = "cam: range of the background thresholds that are tried, in steps of 0.01"
    names = {"nargs": 2, "default": list(RELEASED_RANGE), "metavar": ("MIN", "MAX")}
    parser.method("--thresholds", type=fraction, **names, help=text)


def check_powers(args):
    """UserError where --low is not below --high; -> (low, high, dup)."""
    if args.low >= args.high:
        raise UserError(f"--low {args.low} --high {args.high}: low must be below high")
    return args.low, args.high, args.dup


def check_places(args):
    """UserError where --images and --out do not go together."""
    if (args.images is None) != (args.out is None):
        raise UserError("--images PATH and --out DIR go together")


# ---------------------------------------------------------------- the command of the next stage


def next_command(script, args, *more):
    """The command of the next stage, to be pasted into a shell; what its experiment remembers is left out.

    args: of this stage. more: the next one's own flags and their values, as they stand on a command line. What an
    experiment has of a published checkpoint it does not remember, nor where a data set has moved to.
    """
    own = words("--name", args.name)
    if args.experiment != "experiment":
        own += words("--experiment", args.experiment)
    stored = read_settings(Experiment.of(args).settings, args.remembered)
    for name, default in UNREMEMBERED.items():
        value = getattr(args, name, None)
        of_trunk = name in ("trunk", "output_stride", "width")
        if value not in (None, stored.get(name, default)) and not (of_trunk and script == "evaluation.py"):
            own += words(f"--{name}", value)
    return shlex.join(["python", script, *own, *map(str, more)])


def words(name, value):
    """Words of a command line: a flag and its value, or one word where the value begins like a flag."""
    return [f"{name}={value}"] if str(value).startswith("-") else [name, str(value)]


def scored_list(path):
    """The list to score results of a list with: of the VOC's training images not all have masks."""
    return "voc12/train.txt" if path == "voc12/train_aug.txt" else path
