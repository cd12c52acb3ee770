"""Stage 1: train the classifier from image labels only (AEFT, paper section 3).

reads   --voc12_root (JPEGImages, Annotations), --train_list, --val_list, pretrained/resnet_38d.params
writes  experiment/NAME/ckpt/{epoch:03d}net_main.pth (weights), ckpt/resume.pth (what --resume needs),
        experiment/NAME/log.txt, log.jsonl (one line an epoch)
        python train.py --name N --model aeft_gpp

Epochs before --T train classification alone with --batch_size; from then on every batch has --batch_size_triplet
images, each is erased where it is most active (models/triplet.py: erase), pulled towards its erased copy (attract) and
pushed from an image without a common class (repel).
"""

from functools import partial
from pathlib import Path

import torch

from models.aeft import AEFTNet
from models.checkpoint import load_weights, save_weights
from models.resnet38d import ResNet38d, count_parameters
from models.triplet import TripletErasing
from tool.io.files import UserError, read_list
from tool.run.arguments import (
    Parser,
    add_common_arguments,
    add_data_arguments,
    add_training_arguments,
    flag,
    fraction,
    natural,
    next_command,
    nonnegative,
    positive_int,
)
from tool.run.check import Check, check_training
from tool.run.device import choose_device, memory_format
from tool.run.distributed import join_world
from tool.run.failures import Failures
from tool.run.resume import Run, start_weights
from tool.run.script import run_script
from tool.run.settings import remember
from tool.run.training import check_batches, fit, new_progress, prepare_network, update
from voc12.classes import load_classes
from voc12.data import EpochBatches, Substituting, TrainSet, check_images, image_paths, train_loader
from voc12.labels import load_labels
from voc12.transforms import TrainView
from voc12.validation import cam_sweep

TERMS = ("total", "cls", "attract", "repel")


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
    text = "start weights (.params, .pth, .safetensors), or none to train from scratch"
    add("--pretrained", type=str, default="pretrained/resnet_38d.params", help=text)
    add_training_arguments(parser, epochs=40, crop_size=320, jitter=[0.4, 0.4, 0.4, 0.1], scratch_lr_mult=1.0)
    add = parser.schedule.add_argument
    add("--T", type=natural, default=18, help="first epoch (from 0) with the triplet")
    add("--batch_size_triplet", type=positive_int, default=32, help="images a step, over all processes, from T on")
    add = parser.method.add_argument
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


def build_data(args, classes, world):
    """The training set, and the sampler that gives its batches."""
    ids = read_list(args.train_list)
    if args.on_error == "stop":
        check_images(ids, args.voc12_root)
    sizes = [args.batch_size] if args.T > 0 else []
    sizes += [args.batch_size_triplet] if args.T < args.epochs else []
    check_batches(sizes, len(ids), args.train_list, world)
    labels = load_labels(ids, args.voc12_root, classes, args.cls_labels)
    view = TrainView(args.resize, args.crop_size, args.jitter, args.jitter_p)
    return (
        TrainSet(args.voc12_root, ids, labels, view, args.seed),
        EpochBatches(len(ids), args.seed, world.rank, world.size),
    )


def build_net(args, num_classes):
    """The network, with its start weights; frozen as released when these are pretrained."""
    net = AEFTNet(ResNet38d(args.width, dropout=(0.2, 0.2) if args.dropout else (0.0, 0.0)), num_classes)
    if args.pretrained != "none":
        load_weights(net, args.pretrained, part="trunk")
        net.freeze()
    return net


def batch_size_of(epoch, args):
    return args.batch_size_triplet if epoch >= args.T else args.batch_size


def train_step(batch, progress, model, losses, optimizer, args, device, world):
    """One update; returns {"total", "cls", "attract", "repel"} of the global batch as floats."""
    _, image, label = batch
    image, label = image.to(device, non_blocking=True), label.to(device, non_blocking=True)
    image = image.contiguous(memory_format=memory_format(device, args.amp))
    gather = partial(world.gather, total=batch_size_of(progress["epoch"], args))
    negatives = torch.Generator().manual_seed(args.seed * 1_000_003 + progress["global_step"])  # same on every rank
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=args.amp):
        terms = losses(model, image, label, erase=progress["epoch"] >= args.T, generator=negatives, gather=gather)
    update(optimizer, terms["total"], world)
    return dict(zip(TERMS, torch.stack([terms[k].detach().float() for k in TERMS]).tolist()))


def finish_epoch(progress, net, args, classes, device, ckpt, world):
    """Save the weights and validate (from epoch T-1 on, as released); returns numbers and text for the log."""
    epoch = progress["epoch"]
    if world.main:
        save_weights(net, ckpt / f"{epoch:03d}net_main.pth")
    phase = "triplet" if epoch >= args.T else "warm-up"
    if args.val_list == "none" or epoch < args.T - 1:
        return {"phase": phase}, f", {phase}"
    best = cam_sweep(net, args.voc12_root, args.val_list, classes, args.cls_labels, device, args.num_workers, world)
    text = f", {phase}, CAM mIoU {best['miou']:.2f} ({best['miou_present']:.2f} present) at {best['threshold']:.2f}"
    return {"phase": phase} | best, text


def main(args):
    check_args(args)
    world, device = join_world(choose_device(args.device))
    torch.manual_seed(args.seed)
    classes = load_classes(args.classes)
    dataset, batches = build_data(args, classes, world)
    if args.val_list != "none":
        check_images(read_list(args.val_list), args.voc12_root)
    net = build_net(args, len(classes))
    losses = TripletErasing(*args.TH, margin=args.M, weights=args.W, cls_batch=args.cls_batch)

    experiment = Path(args.experiment) / args.name
    lists = [path for path in (args.train_list, args.val_list) if path != "none"]
    run = Run(experiment, experiment / "ckpt", "log", args, world, device)
    model, optimizer = prepare_network(net, args, device, world)
    step = partial(train_step, model=model, losses=losses, optimizer=optimizer, args=args, device=device, world=world)
    # released: planned as if every batch had the warm-up's size, so the rate ends at about 0.45 of its start
    max_step = len(dataset) // args.batch_size * args.epochs
    warm_up = min(args.T, args.epochs) * (len(dataset) // args.batch_size)
    actual = warm_up + max(0, args.epochs - args.T) * (len(dataset) // args.batch_size_triplet)
    if args.check:
        check = Check(world, f"{device} works, lists and labels are read, weights fit")
        return check_training(
            check,
            args,
            image_paths(args.voc12_root, dataset.ids),
            train_loader(dataset, batches, 0, pin_memory=False),
            [(0, args.batch_size, warm_up), (args.T, args.batch_size_triplet, actual - warm_up)],
            step,
            net,
            TERMS,
            run,
        )
    progress = run.begin(net, optimizer, new_progress(TERMS, args.lr), lists, start_weights(args.pretrained))
    world.first(lambda: remember(args))
    run.describe(
        "train.py",
        device,
        optimizer,
        [
            f"{args.model}: {count_parameters(net):,} parameters, {len(dataset)} images, {len(classes)} classes",
            f"schedule: {warm_up} warm-up steps of {args.batch_size} until epoch {args.T}, then "
            f"{actual - warm_up} triplet steps of {args.batch_size_triplet}; poly planned for {max_step}",
        ],
    )

    finish = partial(finish_epoch, net=net, args=args, classes=classes, device=device, ckpt=run.folder, world=world)
    failures = Failures(args.on_error, run.folder / "failed.txt")
    if failures.skip:
        dataset = Substituting(dataset, failures)
    loader = train_loader(dataset, batches, args.num_workers, device.type == "cuda")
    fit(
        model,
        net,
        loader,
        optimizer,
        step,
        finish,
        progress,
        run,
        epochs=args.epochs,
        stop_epoch=args.stop_epoch,
        max_step=max_step,
        batch_size=partial(batch_size_of, args=args),
        terms=TERMS,
    )
    load = ("--load_epo", progress["epoch"] - 1)
    run.end(
        "train.py",
        progress,
        failures,
        next_command("infer.py", args, *load, "--dict", "--crf", *flag("--infer_list", args.train_list)),
    )


if __name__ == "__main__":
    run_script(main, get_args_parser())
