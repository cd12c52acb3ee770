"""Flags: the parser of every script, argument types, and the flags that several scripts share."""

import argparse
import difflib
import shlex
import sys
from pathlib import Path

from tool.io.files import UserError
from tool.metrics import RELEASED_RANGE
from tool.run.distributed import local_processes
from tool.run.settings import read_settings, settings_path
from tool.workers import usable_cores

GROUPS = ("data", "network", "schedule", "method", "run")
UNSET = object()


class HelpFormatter(argparse.HelpFormatter):
    """Adds the default to the help of every flag that has one and does not speak of it already."""

    def _get_help_string(self, action):
        text = action.help or ""
        no_default = action.default in (None, argparse.SUPPRESS) or action.required or not action.option_strings
        if no_default or "(default" in text:
            return text
        if isinstance(action.default, bool):
            return f"{text} (default: {'on' if action.default else 'off'})"
        if isinstance(action.default, list | tuple):
            return f"{text} (default: {' '.join(map(str, action.default))})"
        return f"{text} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """A script's flags, in the groups data, network, schedule, method and run: `parser.data.add_argument(...)`.

    A mistake is one line and exit code 2. `parse_given` also says which flags stood on the command line.
    """

    def __init__(self, prog, description, begins=False):
        """begins: whether the script is the first stage, which may start an experiment anew."""
        super().__init__(prog, description=description, formatter_class=HelpFormatter)
        self.begins = begins
        self.data, self.network, self.schedule, self.method, self.run = map(self.add_argument_group, GROUPS)
        self.splits = {}  # {dest of a list flag: name of the data set's own list that is its default}
        self.presets = {}  # {dest of a flag: {its value: {dest: default}}}
        self.ignored = []  # released flags that change nothing

    def parse_given(self, argv=None):
        """-> (arguments, names of those that were given); released flags without effect are named on stderr."""
        args, unknown = self.parse_known_args(argv)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self.nearest(unknown[0])}")
        marked, _ = self.parse_known_args(argv, argparse.Namespace(**dict.fromkeys(vars(args), UNSET)))
        given = {name for name, value in vars(marked).items() if value is not UNSET}
        for name, presets in self.presets.items():
            vars(args).update({k: v for k, v in presets[getattr(args, name)].items() if k not in given})
        for name in self.ignored:
            if name in given:
                print(f"warning: --{name} has no effect", file=sys.stderr)
            delattr(args, name)
        return args, given - set(self.ignored)

    def parse_args(self, args=None, namespace=None):
        return self.parse_given(args)[0]

    def nearest(self, flag):
        """A hint at the flag that was meant, or nothing."""
        known = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
        close = difflib.get_close_matches(flag.split("=")[0], known, 1)
        return f" (did you mean {close[0]}?)" if close else ""

    def error(self, message):
        print(f"{Path(self.prog).name}: error: {message}; --help lists all flags", file=sys.stderr)
        sys.exit(2)

    def add_list(self, group, flag, default, split, text):
        """A flag for a list file. split: the list of a data set of one's own that is the default there."""
        action = group.add_argument(
            flag, type=str, default=default, help=f"{text} (default: the data set's own {split}.txt, for VOC {default})"
        )
        self.splits[action.dest] = split

    def add_presets(self, group, flag, presets, text):
        """A flag whose value sets the defaults of others. presets: {value: {dest: default}}, the default one first."""
        first = next(iter(presets))
        action = group.add_argument(flag, type=str, default=first, choices=list(presets), help=text)
        self.presets[action.dest] = presets
        self.set_defaults(**presets[first])

    def ignore(self, *names):
        """Take flags of the released code that change nothing."""
        for name in names:
            self.run.add_argument(f"--{name}", nargs="*", default=None, help=argparse.SUPPRESS)
            self.ignored.append(name)


# ---------------------------------------------------------------- types


def number(kind, test, what):
    """An argparse type: kind(text) where test(value) holds, else an error that says `what` was wanted."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not test(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return value

    return parse


FINITE = 1e30  # also rules out inf and nan
positive_int = number(int, lambda v: 1 <= v < 2**31, "a whole number from 1 to 2147483647")
natural = number(int, lambda v: 0 <= v < 2**31, "a whole number from 0 to 2147483647")
workers = number(int, lambda v: 0 <= v <= 1024, "a whole number from 0 to 1024")
power = number(int, lambda v: 1 <= v <= 99, "a whole number from 1 to 99")
positive = number(float, lambda v: 0 < v < FINITE, "a number above 0 and below 1e30")
nonnegative = number(float, lambda v: 0 <= v < FINITE, "a number from 0 and below 1e30")
fraction = number(float, lambda v: 0 <= v <= 1, "a number from 0 to 1")


def experiment_name(text):
    """A name that is one folder."""
    if not text or text in (".", "..") or "/" in text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not a name for a folder under --experiment")
    return text


# ---------------------------------------------------------------- flags of several scripts


def add_experiment_arguments(parser, name=None, several=False):
    """--name, --experiment. name: a default, without which the flag is required. several: none, one or more names."""
    text = "names of experiments, folders" if several else "name of the experiment, a folder"
    more = {"nargs": "+"} if several else {"required": name is None}
    parser.run.add_argument("--name", type=experiment_name, default=name, help=text, **more)
    parser.run.add_argument("--experiment", type=str, default="experiment", help="folder of all experiments")


def add_common_arguments(parser):
    """--name, --experiment, --device, --num_workers, --seed, --amp, --on_error, --check, --overwrite."""
    add_experiment_arguments(parser)
    run = parser.run
    run.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")
    run.add_argument(
        "--num_workers",
        type=workers,
        default=min(8, usable_cores()),
        help="processes that load data, 0 = none (default: usable cores, at most 8)",
    )
    run.add_argument("--seed", type=natural, default=0, help="seed of everything random")
    run.add_argument(
        "--amp", action=argparse.BooleanOptionalAction, default=False, help="bfloat16 autocast of the network"
    )
    run.add_argument(
        "--on_error",
        "--on-error",
        type=str,
        default="stop",
        choices=["stop", "skip"],
        help="a broken or missing file: stop the run, or leave its image out and list it in failed.txt",
    )
    add_check_argument(parser)
    run.add_argument("--overwrite", action="store_true", help="delete what an earlier run of other settings left here")


def add_check_argument(parser):
    parser.run.add_argument(
        "--check",
        action="store_true",
        help="verify everything the run needs, time one step, estimate the whole; write nothing",
    )


def add_crf_workers_argument(parser):
    parser.run.add_argument(
        "--crf_workers",
        type=positive_int,
        default=max(1, usable_cores() // local_processes()),
        help="processes for CRF, of each process that torchrun starts (default: usable cores)",
    )


def add_data_arguments(parser, labels=True):
    """--voc12_root, --classes, and --cls_labels where image labels are read."""
    parser.data.add_argument(
        "--voc12_root",
        type=str,
        default="./data/VOC2012",
        help="data set in VOC layout: JPEGImages, Annotations, SegmentationClass "
        "(default: the experiment's, else ./data/VOC2012)",
    )
    if labels:
        parser.data.add_argument(
            "--cls_labels",
            type=str,
            default="voc12/cls_labels.npy",
            help="labels of voc12/make_cls_labels.py; IDs it lacks are read from Annotations "
            "(default: the data set's cls_labels.npy, for VOC voc12/cls_labels.npy, where there is one)",
        )
    add_classes_argument(parser.data)


def add_classes_argument(parser):
    """--classes, the same in every script."""
    parser.add_argument(
        "--classes",
        type=str,
        default=None,
        metavar="FILE",
        help="text file with one class name a line (default: the data set's classes.txt, else VOC's 20)",
    )


def add_trunk_arguments(parser):
    """--trunk, --output_stride, --width: what the networks of the method stand on."""
    add = parser.network.add_argument
    text = "resnet38d, or timm:NAME for a classifier of timm (default: the experiment's, else resnet38d)"
    add("--trunk", type=str, default="resnet38d", help=text)
    text = "pixels a cell of a timm CNN (default: the experiment's, else the trunk's own)"
    add("--output_stride", type=int, default=None, choices=[8, 16, 32], help=text)
    text = "factor on the channels of resnet38d, 1 = the paper's (default: the experiment's, else 1)"
    add("--width", type=positive, default=1.0, help=text)


def add_pool_argument(parser):
    """--pool, which train.py and infer.py hand to the classifier."""
    pools = ["gap", "2", "4", "8", "16", "avg", "gpp_inverse", "gpp"]
    text = "pooling of the class maps; the paper's is gpp (default: the experiment's, else gpp)"
    parser.network.add_argument("--pool", type=str, default="gpp", choices=pools, help=text)


def add_training_arguments(parser, epochs, crop_size, jitter, scratch_lr_mult):
    """What all trainings have: network, schedule, crops, optimiser, resuming; defaults as released."""
    add_trunk_arguments(parser)
    switch = argparse.BooleanOptionalAction
    parser.network.add_argument("--dropout", action=switch, default=True, help="the trunk's dropout")
    add = parser.data.add_argument
    square = {"type": positive_int, "nargs": "+", "action": Square}
    add("--crop_size", "--crop", **square, default=crop_size, help="side of a training crop, pixels")
    names = ("BRIGHTNESS", "CONTRAST", "SATURATION", "HUE")
    text = "strengths of colour jitter"
    add("--jitter", "--cj", type=nonnegative, nargs=4, default=jitter, metavar=names, help=text)
    add = parser.schedule.add_argument
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
    add = parser.run.add_argument
    text = "compute activations again in backward: much less memory, about a third more time"
    add("--checkpoint_activations", action="store_true", help=text)
    add("--compile", action="store_true", help="torch.compile the network (the first steps take long)")
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


def add_images_arguments(parser):
    """--images and --out: photographs of no data set."""
    add = parser.data.add_argument
    text = "a photograph, or a folder of them with all below it, instead of --infer_list; results go to --out"
    add("--images", type=str, default=None, metavar="PATH", help=text)
    add("--out", type=str, default=None, metavar="DIR", help="folder of the results of --images")


def add_arch_argument(parser):
    text = (
        "network: deeplab_TRUNK (resnet38d or timm:NAME), or smp:ARCH:ENCODER of segmentation_models_pytorch, with a "
        "classifier of timm as encoder (default: deeplab_ on the experiment's trunk)"
    )
    parser.network.add_argument("--arch", type=str, default=None, help=text)


def add_walk_arguments(parser):
    """--low, --high, --dup, --scale: what names and shapes an AffinityNet run."""
    method = parser.method
    method.add_argument(
        "--low", type=power, required=True, help="background power of the CRF with sure objects, 1 to 99"
    )
    method.add_argument(
        "--high", type=power, required=True, help="background power of the CRF with sure background, 1 to 99"
    )
    method.add_argument(
        "--dup", type=power, required=True, help="background power of the maps that are walked, 1 to 99"
    )
    method.add_argument(
        "--scale", type=positive, default=1.0, help="factor on the image's sides before AffinityNet sees it"
    )


def add_truth_arguments(parser):
    """--gt_dir, --thresholds: the masks that results are scored with, and what is chosen on them."""
    text = "folder of masks, below --voc12_root or any path"
    parser.data.add_argument("--gt_dir", type=str, default="SegmentationClass", help=text)
    text = "cam: range of the background thresholds that are tried, in steps of 0.01"
    action = {"nargs": 2, "default": list(RELEASED_RANGE), "metavar": ("MIN", "MAX")}
    parser.method.add_argument("--thresholds", type=fraction, **action, help=text)


def check_thresholds(args):
    """UserError where --thresholds is no range."""
    low, high = args.thresholds
    if low > high:
        raise UserError(f"--thresholds {low} {high}: MIN must not be above MAX")


def check_alphas(args):
    """UserError where --low is not below --high."""
    if args.low >= args.high:
        raise UserError(f"--low {args.low} --high {args.high}: low must be below high")


# ---------------------------------------------------------------- the command of the next stage


def next_command(script, args, *words):
    """The command of the next stage, to be pasted into a shell.

    args: of this stage. words: the next one's own flags and their values, as they stand on a command line.
    """
    experiment = [] if args.experiment == "experiment" else flag("--experiment", args.experiment)
    return shlex.join(
        ["python", script, *flag("--name", args.name), *experiment, *unremembered(script, args), *map(str, words)]
    )


def unremembered(script, args):
    """Words for what the next stage would not find in the experiment's settings.json (tool/run/settings.py).

    As where the checkpoint is a published one, or where the data set has moved.
    """
    parser = Parser(script, "")
    add_data_arguments(parser, labels=False)
    if script != "evaluation.py":
        add_trunk_arguments(parser)
    stored = read_settings(settings_path(args))
    words = []
    for action in parser._actions:
        value = getattr(args, action.dest, None)
        if value not in (None, stored.get(action.dest, action.default)):
            words += flag(f"--{action.dest}", value)
    return words


def flag(name, value):
    """Words of a command line: a flag and its value, or one word where the value begins like a flag."""
    return [f"{name}={value}"] if str(value).startswith("-") else [name, str(value)]


def scored_list(path):
    """The list to score results of a list with: of the VOC's training images not all have masks."""
    return "voc12/train.txt" if path == "voc12/train_aug.txt" else path
