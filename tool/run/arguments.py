"""Argument types and the flags that several scripts share, so that they read and mean the same everywhere."""

import argparse
import os
import shlex

from tool.io.files import UserError
from tool.run.distributed import local_processes


def _number(kind, test, what):
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
positive_int = _number(int, lambda v: 1 <= v < 2**31, "a whole number from 1")
natural = _number(int, lambda v: 0 <= v < 2**31, "a whole number from 0")
workers = _number(int, lambda v: 0 <= v <= 1024, "a whole number from 0 to 1024")
power = _number(int, lambda v: 1 <= v <= 99, "a whole number from 1 to 99")
positive = _number(float, lambda v: 0 < v < FINITE, "a number above 0")
nonnegative = _number(float, lambda v: 0 <= v < FINITE, "a number from 0")
fraction = _number(float, lambda v: 0 <= v <= 1, "a number from 0 to 1")


def experiment_name(text):
    if not text or text in (".", "..") or "/" in text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not a name for a folder under --experiment")
    return text


def add_common_arguments(parser):
    """--name, --experiment, --device, --num_workers, --seed, --amp."""
    parser.add_argument("--name", type=experiment_name, required=True, help="name of the experiment, a folder")
    parser.add_argument("--experiment", type=str, default="experiment", help="folder of all experiments")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--num_workers",
        type=workers,
        default=min(8, os.cpu_count() or 1),
        help="processes that load data, 0 = none (default: cores, at most 8)",
    )
    parser.add_argument("--seed", type=natural, default=0, help="seed of everything random")
    parser.add_argument(
        "--amp", action=argparse.BooleanOptionalAction, default=False, help="bfloat16 autocast of the network"
    )


def add_crf_workers_argument(parser):
    parser.add_argument(
        "--crf_workers",
        type=positive_int,
        default=max(1, (os.cpu_count() or 1) // local_processes()),
        help="processes for CRF, of each process that torchrun starts",
    )


def next_command(script, args, parser, carry, text):
    """The command of the next stage, to be copied. carry: arguments that it takes over where they are not the default.

    text: its own flags.
    """
    carried = [
        f"--{name} {shlex.quote(str(getattr(args, name)))} "
        for name in carry
        if getattr(args, name) != parser.get_default(name)
    ]
    return f"python {script} --name {shlex.quote(args.name)} {''.join(carried)}{text}"


def scored_list(path):
    """The list to score results of a list with: of the VOC's training images not all have masks."""
    return "voc12/train.txt" if path == "voc12/train_aug.txt" else path


def add_data_arguments(parser, labels=True):
    """--voc12_root, --classes, and --cls_labels where image labels are read."""
    parser.add_argument(
        "--voc12_root",
        type=str,
        default="./data/VOC2012",
        help="data set in VOC layout: JPEGImages, Annotations, SegmentationClass",
    )
    if labels:
        parser.add_argument(
            "--cls_labels",
            type=str,
            default="voc12/cls_labels.npy",
            help="labels of voc12/make_cls_labels.py; IDs it lacks are read from Annotations",
        )
    add_classes_argument(parser)


def add_training_arguments(parser, epochs, crop_size, jitter, scratch_lr_mult):
    """What both trainings have: network, schedule, crops, optimiser, resuming; defaults as released."""
    add_width_argument(parser)
    parser.add_argument("--epochs", "--max_epoches", type=positive_int, default=epochs, help="epochs of the whole run")
    parser.add_argument(
        "--batch_size",
        type=positive_int,
        default=8,
        help="images a step, over all processes; in train.py before epoch T",
    )
    parser.add_argument("--crop_size", type=positive_int, default=crop_size, help="side of a training crop, pixels")
    parser.add_argument(
        "--jitter",
        type=nonnegative,
        nargs=4,
        default=jitter,
        metavar=("BRIGHTNESS", "CONTRAST", "SATURATION", "HUE"),
        help="strengths of colour jitter",
    )
    parser.add_argument("--optimizer", type=str, default="sgd", choices=["sgd", "adamw"], help="released: sgd")
    parser.add_argument("--lr", type=positive, default=0.01, help="learning rate at step 0 of the poly schedule")
    parser.add_argument(
        "--momentum",
        type=fraction,
        default=5e-4,
        help="of SGD; released 5e-4, because weight decay sits in momentum's place there",
    )
    parser.add_argument("--wt_dec", type=nonnegative, default=5e-4, help="weight decay of weights; biases have none")
    parser.add_argument(
        "--scratch_lr_mult",
        type=positive,
        default=scratch_lr_mult,
        help="factor on the rate of layers without pretrained weights",
    )
    parser.add_argument("--dropout", action=argparse.BooleanOptionalAction, default=True, help="the trunk's dropout")
    parser.add_argument(
        "--checkpoint_activations",
        action="store_true",
        help="compute activations again in backward: much less memory, about a third more time",
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile the network (the first steps take long)")
    parser.add_argument(
        "--stop_epoch",
        type=natural,
        default=None,
        help="stop before this epoch, --resume goes on (for queues with a time limit)",
    )
    parser.add_argument("--resume", action="store_true", help="continue where the run was; start it if there is none")
    parser.add_argument("--overwrite", action="store_true", help="delete the run that is there and start anew")


def add_width_argument(parser):
    parser.add_argument("--width", type=positive, default=1.0, help="factor on the trunk's channels (1 = the paper's)")


def add_walk_arguments(parser):
    """--low, --high, --dup, --scale: what names and shapes an AffinityNet run."""
    parser.add_argument("--low", type=power, required=True, help="background power of the CRF with sure objects")
    parser.add_argument("--high", type=power, required=True, help="background power of the CRF with sure background")
    parser.add_argument("--dup", type=power, required=True, help="background power of the maps that are walked")
    parser.add_argument(
        "--scale", type=positive, default=1.0, help="factor on the image's sides before AffinityNet sees it (paper: 1)"
    )


def check_alphas(args):
    """UserError where --low is not below --high."""
    if args.low >= args.high:
        raise UserError(f"--low {args.low} --high {args.high}: low must be below high")


def add_classes_argument(parser):
    """--classes, the same in every script."""
    parser.add_argument(
        "--classes",
        type=str,
        default=None,
        metavar="FILE",
        help="text file with one class name a line (default: the 20 classes of PASCAL VOC)",
    )
