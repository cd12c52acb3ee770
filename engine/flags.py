"""Flags: a parser that knows what each of them means for results, and those that several stages share."""

import argparse
from functools import partial
from pathlib import Path

from engine import experiment
from engine.distributed import local_processes, say
from engine.experiment import VOC_ROOT, Experiment, describe_chosen, read_chosen
from engine.recipes import OTHERS, AtMost, Following, Unless
from models.deeplab import DEEPLAB
from tool import cli
from tool.cam import MAX_SIDE
from tool.cli import fraction, natural, nonnegative, positive, positive_int, power, workers
from tool.crf import RELEASED
from tool.io.files import UserError, print_warning
from tool.metrics import RELEASED_RANGE
from tool.par import REFINEMENTS
from tool.workers import usable_cores

RESULT, CONTENT, FREE = "result", "content", "free"
PAPER = "resnet38d"  # its trunk
SWITCH = argparse.BooleanOptionalAction


class Arguments(argparse.Namespace):
    """The arguments of a stage; its script, and what its Parser says of that and of its flags."""

    __slots__ = ("script", "begins", "remembers", "roles", "remembered")  # not among vars(), the arguments

    def __init__(self, parser):
        super().__init__()
        for name in self.__slots__:
            setattr(self, name, getattr(parser, name))

    @property
    def results(self):
        """{name: value} of what determines results."""
        return {name: getattr(self, name) for name, role in self.roles.items() if role == RESULT}

    @property
    def powers(self):
        """(low, high, dup), which name an AffinityNet and its labels."""
        return self.low, self.high, self.dup

    @property
    def as_trained(self):
        """Whether --max_side is to be what the training saw: for photographs by --images, if nothing else was said."""
        return bool(getattr(self, "images", None)) and isinstance(self.max_side, Unless)


class Parser(cli.Parser):
    """A script's flags, in groups: `parser.data("--flag", role=..., remembered=..., and what add_argument takes)`.

    role: RESULT, its value determines what is computed, so that a run which goes on must have the same; CONTENT, it
    names a file whose content does; FREE, neither. Flags of the groups data, network, schedule and method are RESULT
    where nothing else is said, those of run FREE. remembered: type of the value where the experiment's settings.json
    keeps it for later stages. chosen: where what choose.py chose is its default, True, or a function of the arguments
    that were given, which says whether it is in this run.
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
        self.roles, self.remembered, self.takes = {}, {}, {}  # {dest of a flag: role}; {dest: type}; {dest: chosen}
        self.splits = {}  # {dest of a list flag: name of the data set's own list that is its default}
        self.presets = {}  # {dest of a flag: {its value: {dest: default}}}
        self.others = []  # (whether they hold for every other data set too, {dest: default}), see `add_other`
        self.ranges = []  # flags of MIN and MAX
        self.ignored = []  # released flags that change nothing

    def declare(self, group, *names, role=RESULT, remembered=None, chosen=None, **options):
        """A flag of a group; returns its dest. One of MIN and MAX has to be a range."""
        dest = group.add_argument(*names, **options).dest
        self.roles[dest] = role
        for of, value in ((self.remembered, remembered), (self.takes, chosen)):
            if value:
                of[dest] = value
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

    def add_other(self, defaults, data=False):
        """Defaults where the trunk is not ResNet-38, with `data` also where the data set is not VOC; --help shows both.

        defaults: {dest: value}, a `Following` where it follows from other arguments, which stand before it.
        """
        self.others.append((data, defaults))
        where = "another trunk or data set" if data else "another trunk"
        for action in self._actions:
            if action.dest in defaults and "(default" not in action.help:
                own, other = (cli.shown(value) for value in (action.default, defaults[action.dest]))
                action.help += f" (default: {own}; {where}: {other})"

    def ignore(self, *names):
        """Take flags of the released code that change nothing."""
        for name in names:
            self.run(f"--{name}", nargs="*", default=None, help=argparse.SUPPRESS)
            self.ignored.append(name)

    def parse_args(self, args=None, namespace=None):
        """Two passes: the first says which experiment, data, trunk and presets; their defaults are the second's.

        UserError where a flag contradicts what the experiment remembers.
        """
        if "voc12_root" in self.roles:
            self.set_defaults(voc12_root=None)  # so that the first pass says whether it was given
        first = split_methods(super().parse_args(args, Arguments(self)))
        experiments, stored, chosen, recipe = [], {}, {}, {}
        for name, presets in self.presets.items():
            value = getattr(first, name)
            self.set_defaults(**presets[value])
            recipe |= {} if value == next(iter(presets)) else presets[value]
        if "voc12_root" in self.roles:
            names = first.name if isinstance(first.name, list) else [first.name] if first.name else []
            experiments = [Experiment(first.experiment, name) for name in names]
            stored = self.recall(first, experiments)
            if first.voc12_root is not None and not Path(first.voc12_root).is_dir():
                raise UserError(f"--voc12_root {first.voc12_root}: no such folder")
            root = first.voc12_root or stored.get("voc12_root", VOC_ROOT)
            chosen, about = self.chosen(first, experiments)
            defaults = {"voc12_root": root} | experiment.folder_defaults(Path(root), self.splits)
            defaults |= ({} if recipe else self.elsewhere(first, stored, Path(root))) | stored | chosen
            self.set_defaults(**{name: value for name, value in defaults.items() if name in self.roles})
        second = split_methods(super().parse_args(args, Arguments(self)))
        if stored:
            experiment.check_contradictions(second, experiments[0], stored)
        for name in self.ranges:
            low, high = getattr(second, name)
            if low > high:
                raise UserError(f"--{name} {low} {high}: MIN must not be above MAX")
        if "low" in self.roles and second.low >= second.high:
            raise UserError(f"--low {second.low} --high {second.high}: low must be below high")
        if {"images", "out"} <= self.roles.keys() and (second.images is None) != (second.out is None):
            raise UserError("--images PATH and --out DIR go together")
        for name in self.splits:
            setattr(second, name, experiment.expand_list(getattr(second, name), second.voc12_root))
        for name, value in vars(second).items():
            if isinstance(value, Following):
                setattr(second, name, value.of(second))
        if used := {name: value for name, value in chosen.items() if getattr(second, name) == value}:
            say(describe_chosen(used, about))
        for name in self.ignored:
            if getattr(second, name) is not None:
                print_warning(f"--{name} has no effect")
            delattr(second, name)
        return second

    def elsewhere(self, first, stored, root):
        """The defaults of `add_other` that hold. first: what the first pass gave; root: the data set's folder."""
        trunks = getattr(first, "trunk", PAPER), stored.get("trunk", PAPER)
        light, voc = trunks != (PAPER, PAPER), experiment.has_voc_classes(root)
        holding = [defaults for data, defaults in self.others if light or (data and not voc)]
        return {name: value for defaults in holding for name, value in defaults.items()}

    def chosen(self, first, experiments):
        """What choose.py chose of the flags that take it in this run, {dest: value}, and of what."""
        if len(experiments) != 1 or self.begins:
            return {}, ""
        values, about = read_chosen(experiments[0])
        taken = {name for name, takes in self.takes.items() if takes is True or takes(first)}
        return {name: value for name, value in values.items() if name in taken}, about

    def recall(self, first, experiments):
        """What the experiments remember, for a data set that may have moved. first: what the first pass gave."""
        # the first stage forgets where it is told to, and not to go on, or where nothing was trained yet
        if self.begins and ((first.overwrite and not first.resume) or not experiments[0].classifier.newest()):
            return {}
        stored = experiment.read_common(experiments, first.remembered)
        if first.voc12_root and "voc12_root" in stored:
            stored = experiment.moved(stored, first.voc12_root)
        return experiment.named(stored, experiments[0].settings) if stored else stored


def experiment_name(text):
    """A name that is one folder."""
    if not text or text in (".", "..") or "/" in text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not a name for a folder under --experiment")
    return text


def split_methods(args):
    """The arguments, `--name her=a,b ours=c,d` as methods {"her": ["a", "b"], ...} and name ["a", "b", "c", "d"]."""
    if not isinstance(getattr(args, "name", None), list):
        return args
    pairs = [name.partition("=") for name in args.name if not Experiment(args.experiment, name).folder.is_dir()]
    methods = {method: names.split(",") for method, equals, names in pairs if equals and method}
    if methods:
        if len(methods) < len(args.name):
            raise UserError(
                f"--name {' '.join(args.name)}: give experiments, or METHOD=NAME,NAME,... with each method once"
            )
        args.methods, args.name = methods, sum(methods.values(), [])
        for name in args.name:
            try:
                experiment_name(name)
            except argparse.ArgumentTypeError as error:
                raise UserError(f"--name: {error}") from None
    return args


# ---------------------------------------------------------------- flags of several scripts


def add_experiment(parser, name=None, several=False, required=True):
    """--name, --experiment. name: a default, without which the flag is required. several: none, one or more names."""
    text = "name of the experiment, a folder"
    if several:
        text = "names of experiments, or METHOD=NAME,NAME,... for each method: means and deviations are then a method's"
        parser.set_defaults(methods=None)
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
    text = "half precision: bfloat16, or float16 on a GPU that has none"
    add("--amp", role=RESULT, action=SWITCH, default=False, help=text)
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
    add("--trunk", remembered=str, type=str, default=PAPER, help=text)
    text = "pixels a cell of a timm CNN (default: the experiment's; of a new one 16 where the trunk can, else its own)"
    add("--output_stride", remembered=int | None, type=int, default=None, choices=[8, 16, 32], help=text)
    text = "factor on the channels of resnet38d, 1 = the paper's (default: the experiment's, else 1)"
    add("--width", remembered=float | int, type=positive, default=1.0, help=text)


def add_pool(parser):
    """--pool, which train.py and infer.py hand to the classifier."""
    pools = ["gap", "2", "4", "8", "16", "avg", "gpp_inverse", "gpp"]
    text = "pooling of the class maps; the paper's is gpp (default: the experiment's, else gpp)"
    parser.network("--pool", remembered=str, type=str, default="gpp", choices=pools, help=text)


def add_training(parser, epochs, crop_size, jitter, scratch_lr_mult):
    """What all trainings have: list, network, schedule, crops, optimiser, resuming; defaults as released."""
    parser.add_list("--train_list", "voc12/train_aug.txt", "train", "list of training images")
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
    add("--batch_size", type=positive_int, default=AtMost(8), help=text)
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
    text = "steps between two readings of the losses, for which a GPU is waited for (default: 50; 1 on the CPU)"
    add("--log_every", type=positive_int, default=None, metavar="STEPS", help=text)
    parser.ignore("print_freq")


class Square(argparse.Action):
    """One side, or the two equal ones of the released --crop 320 320."""

    def __call__(self, parser, namespace, values, option_string=None):
        if len(values) > 2 or len(set(values)) > 1:
            parser.error(f"argument {option_string}: {' '.join(map(str, values))}: a crop is square, give its side")
        setattr(namespace, self.dest, values[0])


def add_labelling(parser, photographs=True):
    """--max_side, --crf_workers; photographs: --images and --out as well, for photographs of no data set."""
    add_max_side(parser, photographs)
    text = "processes for CRF, of each process that torchrun starts (default: usable cores)"
    cores = max(1, usable_cores() // local_processes())
    parser.run("--crf_workers", type=positive_int, default=cores, help=text)
    if photographs:
        text = "a photograph, or a folder of them with all below it, instead of --infer_list; results go to --out"
        parser.data("--images", role=FREE, type=str, default=None, metavar="PATH", help=text)
        text = "folder of the results of --images"
        parser.data("--out", role=FREE, type=str, default=None, metavar="DIR", help=text)


def add_max_side(parser, photographs=False):
    """--max_side, the same in every script that sees photographs at their own size. photographs: has --images."""
    text = "pixels; networks and CRF see a photograph whose longer side is above it at that size; results have its own "
    text += f"size; 0 = never (default: {MAX_SIDE}{', of --images the side that training saw' * photographs})"
    parser.method("--max_side", type=natural, default=Unless(MAX_SIDE) if photographs else MAX_SIDE, help=text)


def add_crf(parser):
    """--alphas, --png and the widths: the CRF of maps."""
    text = "background powers for CRF, 1 to 99: the larger, the more is object"
    own = {"role": FREE, "chosen": refines, "type": power, "nargs": "+"}  # each power has a folder
    parser.method("--alphas", **own, default=[2, 19, 21], help=text)
    parser.add_other({"alphas": OTHERS["alphas"]}, data=True)
    add_refine(parser, refines)
    add_widths(parser, refines)
    text = (
        "write what the CRF labels as palette PNGs, of these powers; LOW_HIGH: what two give the same label, 255 "
        "elsewhere; without a number that in the middle of --alphas"
    )
    parser.run("--png", type=powers, nargs="*", default=None, metavar="ALPHA", help=text)


def add_refine(parser, chosen=None):
    """--refine. chosen: see Parser."""
    text = "what refines: a dense CRF, or pixel-adaptive refinement (PAR), several times as fast, without pydensecrf"
    more = {"role": FREE, "chosen": chosen, "choices": REFINEMENTS, "default": REFINEMENTS[0]}
    parser.method("--refine", type=str, **more, help=text)


def powers(text):
    """4 -> (4,); 2_12 -> (2, 12)."""
    alphas = tuple(map(power, text.split("_")))
    if len(alphas) > 2:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a background power nor two, LOW_HIGH")
    return alphas


def refines(first):
    """Whether infer.py is to make a CRF, by the arguments that it was given."""
    return bool(first.crf or first.images or first.png is not None)


def add_widths(parser, chosen=True):
    """--sxy, --srgb, --sxy_side: widths of the CRF's kernels. chosen: see Parser."""
    add = partial(parser.method, role=FREE, chosen=chosen)  # of what is made with others than released it is said
    text = "CRF: width in space of the kernel of place and colour, pixels"
    add("--sxy", type=positive, default=RELEASED.bilateral_sxy, help=text)
    add("--srgb", type=positive, default=RELEASED.srgb, help="CRF: width in colour of that kernel, of 255 levels")
    text = (
        "CRF: the longer side in pixels that widths in space are meant for, they follow that of each photograph; 0: all"
    )
    add("--sxy_side", type=natural, default=RELEASED.side, help=text)
    parser.add_other({name: OTHERS[name] for name in ("srgb", "sxy_side")}, data=True)


def add_arch(parser):
    text = (
        "network: deeplab_TRUNK (resnet38d or timm:NAME), or smp:ARCH:ENCODER of segmentation_models_pytorch, with a "
        "classifier of timm as encoder (default: deeplab_ on the experiment's trunk)"
    )
    default = Following("deeplab_ on the trunk", lambda args: DEEPLAB + args.trunk)
    parser.network("--arch", type=str, default=default, help=text)


def add_walk(parser):
    """--low, --high, --dup, --scale: what names and shapes an AffinityNet run."""
    add = partial(parser.method, chosen=True)
    add("--low", type=power, default=2, help="background power of the CRF with sure objects, 1 to 99")
    add("--high", type=power, default=21, help="background power of the CRF with sure background, 1 to 99")
    add("--dup", type=power, default=19, help="background power of the maps that are walked, 1 to 99")
    parser.add_other({name: OTHERS[name] for name in ("high", "dup")}, data=True)
    parser.method("--scale", type=positive, default=1.0, help="factor on the image's sides before AffinityNet sees it")


def add_truth(parser):
    """--gt_dir, --thresholds: the masks that results are scored with, and what is chosen on them."""
    text = "folder of masks, below --voc12_root or any path"
    parser.data("--gt_dir", type=str, default="SegmentationClass", help=text)
    text = "cam: range of the background thresholds that are tried, in steps of 0.01"
    names = {"nargs": 2, "default": RELEASED_RANGE, "metavar": ("MIN", "MAX")}
    parser.method("--thresholds", type=fraction, **names, help=text)
