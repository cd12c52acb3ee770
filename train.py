"""Stage 1: train the classifier from image labels only (AEFT, paper section 3).

reads   --voc12_root (JPEGImages, Annotations), --train_list, --val_list, pretrained/resnet_38d.params
writes  experiment/NAME/ckpt/{epoch:03d}net_main.pth (weights), ckpt/resume.pth (what --resume needs),
        experiment/NAME/log.txt, log.jsonl (one line an epoch), settings.json (defaults of later stages)
        python train.py --name N --model aeft_gpp

Epochs before --T train classification alone with --batch_size; from then on every batch has --batch_size_triplet
images, each is erased where it is most active (models/triplet.py: erase), pulled towards its erased copy (attract) and
pushed from an image without a common class (repel).
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import torch

from models.aeft import AEFTNet
from models.checkpoint import load_weights, save_weights
from models.resnet38d import count_parameters
from models.triplet import ATTRACT, METRICS, TripletErasing
from models.trunks import make_trunk
from tool.io.files import UserError, read_list, require_files
from tool.run.arguments import (
    Parser,
    add_common_arguments,
    add_data_arguments,
    add_pool_argument,
    add_training_arguments,
    flag,
    fraction,
    natural,
    next_command,
    nonnegative,
    positive_int,
)
from tool.run.check import Check
from tool.run.device import choose_device
from tool.run.distributed import join_world
from tool.run.failures import Failures
from tool.run.resume import Progress, fingerprint, start_weights
from tool.run.script import run_script
from tool.run.settings import remember
from tool.run.training import Run, build_optimizer, check_batches, check_training, prepare_network, train_one_epoch
from voc12.classes import load_classes
from voc12.data import EpochBatches, Substituting, TrainSet, check_images, image_paths, mask_paths, train_loader
from voc12.labels import any_negative, load_labels
from voc12.transforms import TrainView, look_of
from voc12.validation import cam_sweep


def get_args_parser():
    parser = Parser("train.py", "AEFT stage 1: train the classifier from image labels.", begins=True)
    add_common_arguments(parser)
    add_data_arguments(parser)
    parser.add_list(parser.data, "--train_list", "voc12/train_aug.txt", "train", "list of training images")
    parser.add_list(
        parser.data, "--val_list", "voc12/train.txt", "val", "list with masks for the threshold sweep, or none"
    )
    add = parser.data.add_argument
    add("--resize", type=positive_int, nargs=2, default=[256, 512], metavar=("MIN", "MAX"), help="long side, pixels")
    add("--jitter_p", type=fraction, default=0.8, help="probability of colour jitter")
    add = parser.network.add_argument
    add("--model", type=str, default="aeft_gpp", choices=["aeft_gpp"], help="network to train")
    text = (
        "start weights: a file (.params, .pth, .safetensors), timm to let it fetch its own, none to train from scratch"
    )
    add("--pretrained", type=str, default="pretrained/resnet_38d.params", help=text)
    add_pool_argument(parser)
    add_training_arguments(parser, epochs=40, crop_size=320, jitter=[0.4, 0.4, 0.4, 0.1], scratch_lr_mult=1.0)
    add = parser.schedule.add_argument
    add("--T", type=natural, default=18, help="first epoch (from 0) with the triplet")
    add("--batch_size_triplet", type=positive_int, default=32, help="images a step, over all processes, from T on")
    add = parser.method.add_argument
    text = (
        "soft: the paper's; rigid: erased images are classified with the labels of the whole; none: nothing is erased"
    )
    add("--attract", type=str, default="soft", choices=ATTRACT, help=text)
    switch = argparse.BooleanOptionalAction
    add("--repel", action=switch, default=True, help="push images away from those without a common class")
    add("--metric", type=str, default="gpp", choices=METRICS, help="maps that embeddings are taken from")
    add("--cls_batch", type=positive_int, default=8, help="images of a batch that the classification loss sees")
    text = "activations: erased from HIGH, not the object below LOW"
    add("--TH", type=fraction, nargs=2, default=[0.6, 0.2], metavar=("HIGH", "LOW"), help=text)
    add("--M", type=nonnegative, default=0.5, help="margin of repel, a squared distance")
    names = ("CLS", "ATTRACT", "REPEL")
    add("--W", type=nonnegative, nargs=3, default=[1.0, 0.2, 0.15], metavar=names, help="weights of the three terms")
    return parser


def check_args(args):
    """Contradictions that argparse cannot see."""
    if args.TH[1] >= args.TH[0]:
        raise UserError(f"--TH {args.TH[0]} {args.TH[1]}: HIGH must be above LOW")
    if args.resize[0] > args.resize[1]:
        raise UserError(f"--resize {args.resize[0]} {args.resize[1]}: MIN must not be above MAX")
    if args.attract == "rigid" and args.T >= args.epochs:
        raise UserError(f"--attract rigid --T {args.T}: nothing is erased in {args.epochs} epochs")


def build_data(args, classes, look, world):
    """The training set, and the sampler that gives its batches. look: what the trunk wants images to be like."""
    ids = read_list(args.train_list)
    if args.on_error == "stop":
        check_images(ids, args.voc12_root)
    sizes = [args.batch_size] if args.T > 0 else []
    sizes += [args.batch_size_triplet] if args.T < args.epochs else []
    check_batches(sizes, len(ids), args.train_list, world)
    labels = load_labels(ids, args.voc12_root, classes, args.cls_labels)
    if world.main and args.repel and args.T < args.epochs and not any_negative(labels.matrix):
        print(
            f"warning: {args.train_list}: any two images share a class, so none has a negative and the repel term "
            "stays 0; more classes, or images without the common one, would change that",
            file=sys.stderr,
        )
    view = TrainView(args.resize, args.crop_size, args.jitter, args.jitter_p, look)
    dataset = TrainSet(args.voc12_root, ids, labels, view, args.seed)
    return dataset, EpochBatches(len(ids), args.seed, world.rank, world.size)


def read_val_list(args):
    """IDs of the list with masks; None without one. UserError where an image or a mask is missing."""
    if args.val_list == "none":
        return None
    ids = read_list(args.val_list)
    check_images(ids, args.voc12_root)
    require_files(mask_paths(args.voc12_root, ids), "mask", "--val_list none trains without validation")
    return ids


def describe_data(dataset, classes, val_ids):
    """{what a run is trained on, in words: its fingerprint}."""
    return {
        "images of --train_list": fingerprint(dataset.ids),
        "image labels": fingerprint(dataset.labels.matrix.tobytes()),
        "class names": fingerprint(list(classes)),
        "images of --val_list": fingerprint(val_ids),
    }


def build_net(args, num_classes):
    """The network, with its start weights; frozen as released when these are pretrained."""
    dropout = (0.2, 0.2) if args.dropout else (0.0, 0.0)
    trunk = make_trunk(args.trunk, args.width, args.output_stride, dropout, fetch=args.pretrained == "timm")
    trunk.checkpoint_activations = args.checkpoint_activations
    net = AEFTNet(trunk, num_classes, args.pool)
    if args.pretrained not in ("none", "timm"):
        load_weights(net, args.pretrained, part="trunk")
    if args.pretrained != "none":
        net.freeze()
    return net


class Criterion:
    """The losses of a batch, for tool/run/training.py: train_step.

    losses: TripletErasing. first: epoch from which on images are erased. batches: knows the size of the global batch.
    """

    terms = ("total", "cls", "attract", "repel")

    def __init__(self, losses, first, seed, batches, world):
        self.losses, self.first, self.seed, self.batches, self.world = losses, first, seed, batches, world

    def __call__(self, model, image, label, progress):
        gather = partial(self.world.gather, total=self.batches.batch_size)
        negatives = torch.Generator().manual_seed(self.seed * 1_000_003 + progress.global_step)  # same on every rank
        erase = progress.epoch >= self.first
        losses = self.losses(model, image, label, erase=erase, generator=negatives, gather=gather)
        return losses["total"], torch.stack([losses[k].detach().float() for k in self.terms])


def plan(args, images):
    """Phases of the run as (first epoch, batch size, steps), and the steps that the poly schedule is planned for."""
    warm_up = min(args.T, args.epochs) * (images // args.batch_size)
    triplet = max(0, args.epochs - args.T) * (images // args.batch_size_triplet)
    # released: planned as if every batch had the warm-up's size, so the rate ends at about 0.45 of its start
    planned = images // args.batch_size * args.epochs
    return [(0, args.batch_size, warm_up), (args.T, args.batch_size_triplet, triplet)], planned


def validate(args, epoch, net, classes, run):
    """Numbers and text for the log; of the class activation maps from epoch T-1 on, as released."""
    phase = "triplet" if epoch >= args.T else "warm-up"
    if args.val_list == "none" or epoch < args.T - 1:
        return {"phase": phase}, phase
    data = args.voc12_root, args.val_list, classes, args.cls_labels
    best = cam_sweep(net, *data, run.device, args.num_workers, run.world)
    text = f"{phase}, CAM mIoU {best['miou']:.2f} ({best['miou_present']:.2f} present) at {best['threshold']:.2f}"
    return {"phase": phase} | best, text


def main(args):
    check_args(args)
    world, device = join_world(choose_device(args.device))
    torch.manual_seed(args.seed)
    classes = load_classes(args.classes)
    net = build_net(args, len(classes))
    dataset, batches = build_data(args, classes, look_of(net.trunk), world)
    val_ids = read_val_list(args)
    model = prepare_network(net, device, world, args.amp, args.seed, args.compile)
    groups = net.param_groups(args.lr, args.wt_dec, args.scratch_lr_mult)
    optimizer = build_optimizer(args.optimizer, groups, args.momentum)
    terms = {"attract": args.attract, "repel": args.repel, "metric": args.metric}
    losses = TripletErasing(*args.TH, margin=args.M, weights=args.W, cls_batch=args.cls_batch, **terms)
    criterion = Criterion(losses, args.T, args.seed, batches, world)
    phases, planned = plan(args, len(dataset))
    checkpoints = Path(args.experiment) / args.name / "ckpt" / "{:03d}net_main.pth"
    run = Run(args, world, device, checkpoints, "log", planned)
    if args.check:
        check = Check(world, f"{device} works, lists and labels are read, weights fit")
        loader = train_loader(dataset, batches, 0, pin_memory=False)
        paths = image_paths(args.voc12_root, dataset.ids)
        return check_training(check, run, paths, phases, loader, model, criterion, optimizer)

    with run:
        progress = Progress(sums=[0.0] * len(criterion.terms), lr=args.lr)
        data = describe_data(dataset, classes, val_ids)
        lists = [path for path in (args.train_list, args.val_list) if path != "none"]
        progress = run.begin(net, optimizer, progress, data, lists, start_weights(args.pretrained))
        world.first(lambda: remember(args))
        (_, size, warm_up), (first, triplet_size, triplet) = phases
        counts = f"{count_parameters(net):,} parameters, {len(dataset)} images, {len(classes)} classes"
        steps = f"{warm_up} warm-up steps of {size} until epoch {first}, then {triplet} triplet steps of {triplet_size}"
        lines = [f"{args.model}: {counts}", f"schedule: {steps}; poly planned for {planned}"]
        run.describe("train.py", lines)
        run.restore_checkpoint(progress, save_weights)
        failures = Failures(args.on_error, run.folder / "failed.txt")
        samples = Substituting(dataset, failures) if failures.skip else dataset
        loader = train_loader(samples, batches, args.num_workers, device.type == "cuda")
        for epoch in range(progress.epoch, run.last_epoch):
            batches.start(epoch, args.batch_size_triplet if epoch >= args.T else args.batch_size, progress.step)
            losses = train_one_epoch(model, criterion, loader, optimizer, progress, run)
            if world.main:
                save_weights(net, run.checkpoint(epoch))
            scores, text = validate(args, epoch, net, classes, run)
            run.finish_epoch(progress, losses, scores, text)
        words = ("--load_epo", progress.epoch - 1, "--dict", "--crf", *flag("--infer_list", args.train_list))
        run.end("train.py", progress, failures, next_command("infer.py", args, *words))


if __name__ == "__main__":
    run_script(main, get_args_parser())
