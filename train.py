"""Stage 1: train the classifier from image labels only (AEFT, paper section 3).

reads   --voc12_root (JPEGImages, Annotations), --train_list, --val_list, pretrained/resnet_38d.params
writes  experiment/NAME/ckpt/{epoch:03d}net_main.pth (weights), ckpt/resume.pth (what --resume needs),
        experiment/NAME/log.txt, log.jsonl (one line an epoch)
        python train.py --name N --model aeft_gpp

Epochs before --T train classification alone with --batch_size; from then on every batch has --batch_size_triplet
images, each is erased where it is most active (models/triplet.py: erase), pulled towards its erased copy (attract) and
pushed from an image without a common class (repel).
"""

import argparse
import time
from pathlib import Path

import torch

from models.aeft import AEFTNet
from models.checkpoint import load_weights, save_weights
from models.resnet38d import ResNet38d, count_parameters
from models.triplet import TripletErasing
from tool.arguments import (
    add_common_arguments,
    add_data_arguments,
    add_optimizer_arguments,
    fraction,
    nonnegative,
    positive,
    positive_int,
)
from tool.files import UserError, read_list, remove_stale, run_script
from tool.training import (
    Log,
    StopSignal,
    build_optimizer,
    choose_device,
    describe_groups,
    describe_run,
    describe_terms,
    epoch_record,
    load_resume,
    new_progress,
    next_epoch,
    run_epoch,
    save_resume,
    start_or_resume,
)
from tool.validation import cam_sweep
from voc12.classes import load_classes
from voc12.data import EpochBatches, TrainSet, check_images, train_loader
from voc12.labels import load_labels
from voc12.transforms import TrainView

TERMS = ("total", "cls", "attract", "repel")


def get_args_parser():
    parser = argparse.ArgumentParser("train.py", description="AEFT stage 1: train the classifier from image labels.")
    add_common_arguments(parser)
    add_data_arguments(parser)
    parser.add_argument("--model", type=str, default="aeft_gpp", choices=["aeft_gpp"], help="network to train")
    parser.add_argument("--width", type=positive, default=1.0, help="factor on the trunk's channels (1 = the paper's)")
    parser.add_argument("--train_list", type=str, default="voc12/train_aug.txt", help="list of training images")
    parser.add_argument("--val_list", type=str, default="voc12/train.txt",
                        help="list with masks for the CAM threshold sweep after an epoch, or none")
    parser.add_argument("--pretrained", type=str, default="pretrained/resnet_38d.params",
                        help="start weights (.params, .pth, .safetensors), or none to train from scratch")
    parser.add_argument("--epochs", "--max_epoches", type=positive_int, default=40, help="epochs of the whole run")
    parser.add_argument("--T", type=int, default=18, help="first epoch (from 0) with the triplet")
    parser.add_argument("--batch_size", type=positive_int, default=8, help="images a step before epoch T")
    parser.add_argument("--batch_size_triplet", type=positive_int, default=32, help="images a step from epoch T on")
    parser.add_argument("--cls_batch", type=positive_int, default=8,
                        help="images of a batch that the classification loss sees (released: 8, always)")
    parser.add_argument("--TH", type=fraction, nargs=2, default=[0.6, 0.2], metavar=("HIGH", "LOW"),
                        help="activations: erased from HIGH, not the object below LOW")
    parser.add_argument("--M", type=nonnegative, default=0.5, help="margin of repel, a squared distance")
    parser.add_argument("--W", type=nonnegative, nargs=3, default=[1.0, 0.2, 0.15], metavar=("CLS", "ATTRACT", "REPEL"),
                        help="weights of the three terms")
    parser.add_argument("--resize", type=positive_int, nargs=2, default=[256, 512], metavar=("MIN", "MAX"),
                        help="range of the long side, pixels")
    parser.add_argument("--crop_size", type=positive_int, default=320, help="side of a training crop, pixels")
    parser.add_argument("--jitter", type=nonnegative, nargs=4, default=[0.4, 0.4, 0.4, 0.1],
                        metavar=("BRIGHTNESS", "CONTRAST", "SATURATION", "HUE"), help="strengths of colour jitter")
    parser.add_argument("--jitter_p", type=fraction, default=0.8, help="probability of colour jitter")
    add_optimizer_arguments(parser, scratch_lr_mult=1.0)
    parser.add_argument("--stop_epoch", type=int, default=None,
                        help="stop before this epoch, --resume goes on (for queues with a time limit)")
    return parser


def check_args(args):
    """Contradictions that argparse cannot see."""
    if args.TH[1] >= args.TH[0]:
        raise UserError(f"--TH {args.TH[0]} {args.TH[1]}: HIGH must be above LOW")
    if args.resize[0] > args.resize[1]:
        raise UserError(f"--resize {args.resize[0]} {args.resize[1]}: MIN must not be above MAX")
    if args.jitter[3] > 0.5:
        raise UserError(f"--jitter: hue {args.jitter[3]} is above 0.5, half of the colour circle")
    if args.T < 0:
        raise UserError(f"--T {args.T}: an epoch, from 0")


def build_data(args, classes):
    """The training set, and the sampler that gives its batches."""
    ids = read_list(args.train_list)
    check_images(ids, args.voc12_root)
    sizes = [args.batch_size] if args.T > 0 else []
    sizes += [args.batch_size_triplet] if args.T < args.epochs else []
    if max(sizes) > len(ids):
        raise UserError(f"{args.train_list}: {len(ids)} images do not fill one batch of {max(sizes)}; "
                        "lower --batch_size and --batch_size_triplet")
    labels = load_labels(ids, args.voc12_root, classes, args.cls_labels)
    view = TrainView(args.resize, args.crop_size, args.jitter, args.jitter_p)
    return TrainSet(args.voc12_root, ids, labels, view, args.seed), EpochBatches(len(ids), args.seed)


def build_net(args, num_classes, device):
    """The network, with its start weights; frozen as released when these are pretrained."""
    net = AEFTNet(ResNet38d(args.width), num_classes)
    if args.pretrained != "none":
        load_weights(net, args.pretrained, part="trunk")
        net.freeze()
    return net.to(device)


def train_step(net, losses, optimizer, batch, generator, erase, amp, device):
    """One update; returns {"total", "cls", "attract", "repel"} as floats."""
    _, image, label = batch
    image, label = image.to(device, non_blocking=True), label.to(device, non_blocking=True)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp):
        terms = losses(net, image, label, erase=erase, generator=generator)
    optimizer.zero_grad(set_to_none=True)
    terms["total"].backward()
    optimizer.step()
    return dict(zip(TERMS, torch.stack([terms[k].detach().float() for k in TERMS]).tolist()))


def train_one_epoch(net, losses, loader, optimizer, progress, max_step, args, device, stop):
    """Warm-up or triplet, by the epoch; returns False where a signal asked to stop."""
    net.train()
    erase = progress["epoch"] >= args.T
    batch_size = args.batch_size_triplet if erase else args.batch_size
    loader.batch_sampler.start(progress["epoch"], batch_size, progress["step"])

    def step(batch, global_step):
        negatives = torch.Generator().manual_seed(args.seed * 1_000_003 + global_step)
        return train_step(net, losses, optimizer, batch, negatives, erase, args.amp, device)

    return run_epoch(loader, step, optimizer, progress, max_step, TERMS, stop)


def finish_epoch(net, progress, max_step, args, classes, device, log, started):
    """Validate (from epoch T-1 on, as released) and log; returns the epoch's JSON record."""
    record = epoch_record(progress, max_step, TERMS)
    record["phase"] = "triplet" if record["epoch"] >= args.T else "warm-up"
    text = f"epoch {record['epoch']} ({record['phase']}): {describe_terms(record, TERMS)}"
    if args.val_list != "none" and record["epoch"] >= args.T - 1:
        best = cam_sweep(net, args.voc12_root, args.val_list, classes, args.cls_labels, device, args.num_workers)
        record |= best
        text += f", CAM mIoU {best['miou']:.2f} ({best['miou_present']:.2f} present) at {best['threshold']:.2f}"
    record["seconds"] = progress["seconds"] + time.time() - started
    log.line(f"{text}, {record['seconds']:.0f} s")
    return record


def main(args):
    check_args(args)
    device = choose_device(args.device)
    torch.manual_seed(args.seed)
    classes = load_classes(args.classes)
    dataset, batches = build_data(args, classes)
    if args.val_list != "none":
        check_images(read_list(args.val_list), args.voc12_root)
    net = build_net(args, len(classes), device)
    groups = net.param_groups(args.lr, args.wt_dec, args.scratch_lr_mult)
    optimizer = build_optimizer(args.optimizer, groups, args.momentum)
    losses = TripletErasing(*args.TH, margin=args.M, weights=args.W, cls_batch=args.cls_batch)

    experiment = Path(args.experiment) / args.name
    ckpt = experiment / "ckpt"
    remove_stale(ckpt)
    progress = new_progress(TERMS, args.lr)
    settings = vars(args)
    if start_or_resume(ckpt, ckpt / "resume.pth", args.resume, args.overwrite):
        progress = load_resume(ckpt / "resume.pth", net, optimizer, settings, may_change=("epochs",))

    # released: planned as if every batch had the warm-up's size, so the rate ends at about 0.45 of its start
    max_step = len(dataset) // args.batch_size * args.epochs
    warm_up = min(args.T, args.epochs) * (len(dataset) // args.batch_size)
    actual = warm_up + max(0, args.epochs - args.T) * (len(dataset) // args.batch_size_triplet)
    log = Log(experiment, first_epoch=progress["epoch"])
    describe_run(log, "train.py", device, args.seed, settings)
    log.line(f"{args.model}: {count_parameters(net):,} parameters, {len(dataset)} images, {len(classes)} classes")
    log.line(f"schedule: {warm_up} warm-up steps of {args.batch_size} until epoch {args.T}, then "
             f"{actual - warm_up} triplet steps of {args.batch_size_triplet}; poly planned for {max_step}")
    describe_groups(log, optimizer)

    loader = train_loader(dataset, batches, args.num_workers, device.type == "cuda")
    last = min(args.epochs, args.stop_epoch) if args.stop_epoch is not None else args.epochs
    with StopSignal() as stop:
        while progress["epoch"] < last:
            started = time.time()
            done = train_one_epoch(net, losses, loader, optimizer, progress, max_step, args, device, stop)
            if done:
                record = finish_epoch(net, progress, max_step, args, classes, device, log, started)
                save_weights(net, ckpt / f"{progress['epoch']:03d}net_main.pth")
                log.epoch(record)
                next_epoch(progress, TERMS)
            else:
                progress["seconds"] += time.time() - started
            save_resume(ckpt / "resume.pth", net, optimizer, progress, settings)
            if stop.number is not None:
                stop.stop(f"at epoch {progress['epoch']}, step {progress['step']}")
    log.line(f"done: {ckpt}; next: python infer.py --name {args.name} --load_epo {progress['epoch'] - 1} --dict --crf")
    log.close()


if __name__ == "__main__":
    run_script(main, get_args_parser())
