"""Stage 3: train AffinityNet on where the CRF of two background powers agree (Ahn and Kwak, CVPR 2018).

reads   experiment/NAME/crf/{low:02d} and crf/{high:02d} (infer.py --crf), --voc12_root, --train_list;
        for choosing the best checkpoint experiment/NAME/dict and the masks of --val_list
writes  experiment/NAME/ckpt_aff/aff{low:02d}{high:02d}{dup:02d}/{epoch:02d}.pth, best.pth, resume.pth, log_aff.txt
        python train_aff.py --name N --low 2 --high 21 --dup 19

Low background power gives sure objects, high gives sure background; what neither is sure of teaches nothing. As
released, best.pth is the checkpoint with the best random walk on the masks of --val_list, so ground truth is used to
choose it; --select last uses none.
"""

import argparse
import time
from pathlib import Path

import torch

from models.affinity import AffinityNet, affinity_loss
from models.checkpoint import load_weights, save_weights
from models.resnet38d import count_parameters
from tool.affinity_labels import STRIDE
from tool.arguments import (
    add_common_arguments,
    add_data_arguments,
    add_optimizer_arguments,
    add_walk_arguments,
    check_alphas,
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
from tool.validation import can_validate, walk_miou
from voc12.classes import load_classes
from voc12.data import AffinitySet, EpochBatches, check_images, check_scores, train_loader
from voc12.transforms import AffinityView

TERMS = ("total", "bg", "fg", "neg")
START_WEIGHTS = ("pretrained/res38_cls.pth", "pretrained/resnet_38d.params")


def get_args_parser():
    parser = argparse.ArgumentParser("train_aff.py", description="AEFT stage 3: train AffinityNet.")
    add_common_arguments(parser)
    add_data_arguments(parser, labels=False)
    add_walk_arguments(parser)
    parser.add_argument("--train_list", type=str, default="voc12/train_aug.txt", help="list of training images")
    parser.add_argument("--val_list", type=str, default="voc12/train.txt",
                        help="list with masks on which the best checkpoint is chosen, or none")
    parser.add_argument("--val_every", type=positive_int, default=500, help="steps between two validations")
    parser.add_argument("--select", type=str, default="best", choices=["best", "last"],
                        help="what best.pth is: the best walk on the masks of --val_list (released), or the last epoch")
    parser.add_argument("--pretrained", type=str, default="auto",
                        help=f"start weights, or none; auto: the first that exists of {' '.join(START_WEIGHTS)}")
    parser.add_argument("--epochs", "--max_epoches", type=positive_int, default=8, help="epochs of the whole run")
    parser.add_argument("--batch_size", type=positive_int, default=8, help="images a step")
    parser.add_argument("--crop_size", type=positive_int, default=448, help="side of a crop, pixels, a multiple of 8")
    parser.add_argument("--jitter", type=nonnegative, nargs=4, default=[0.3, 0.3, 0.3, 0.1],
                        metavar=("BRIGHTNESS", "CONTRAST", "SATURATION", "HUE"), help="strengths of colour jitter")
    parser.add_argument("--width", type=positive, default=1.0, help="factor on the trunk's channels (1 = the paper's)")
    add_optimizer_arguments(parser, scratch_lr_mult=10.0)
    parser.add_argument("--stop_epoch", type=int, default=None,
                        help="stop before this epoch, --resume goes on (for queues with a time limit)")
    return parser


def build_data(args, experiment):
    """The training set, and the sampler that gives its batches."""
    ids = read_list(args.train_list)
    check_images(ids, args.voc12_root)
    folders = [experiment / "crf" / f"{alpha:02d}" for alpha in (args.low, args.high)]
    for folder, alpha in zip(folders, (args.low, args.high)):
        check_scores(ids, folder, args.train_list, f"infer.py --crf --alphas {alpha}")
    if args.batch_size > len(ids):
        raise UserError(f"{args.train_list}: {len(ids)} images do not fill one batch; lower --batch_size")
    view = AffinityView(args.crop_size, args.scale, args.jitter)
    return AffinitySet(args.voc12_root, ids, *folders, view, args.seed), EpochBatches(len(ids), args.seed)


def build_net(args, device):
    """AffinityNet with its start weights; frozen as released when there are any."""
    net = AffinityNet(args.width)
    path = args.pretrained
    if path == "auto":
        path = next((p for p in START_WEIGHTS if Path(p).is_file()), None)
        if path is None:
            raise UserError(f"none of {' '.join(START_WEIGHTS)} is there; see pretrained/README.md, or give "
                            "--pretrained FILE (a checkpoint of train.py will do) or --pretrained none")
    if path != "none":
        load_weights(net, path, part="trunk")
        net.freeze()
    return net.to(device)


def train_step(net, optimizer, batch, amp, device):
    """One update; returns {"total", "bg", "fg", "neg"} as floats."""
    _, image, masks = batch
    image, masks = image.to(device, non_blocking=True), masks.to(device, non_blocking=True)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp):
        affinity = net(image)  # B x offsets x anchors
    terms = affinity_loss(affinity.float(), *masks.unbind(1))
    optimizer.zero_grad(set_to_none=True)
    terms["total"].backward()
    optimizer.step()
    return dict(zip(TERMS, torch.stack([terms[k].detach() for k in TERMS]).tolist()))


class BestCheckpoint:
    """Validates every `val_every` steps and keeps the best network as best.pth; progress["best"] is its mIoU."""

    def __init__(self, net, args, classes, experiment, folder, device, log):
        self.net, self.args, self.classes = net, args, classes
        self.dict_dir, self.path, self.device, self.log = experiment / "dict", folder / "best.pth", device, log

    def __call__(self, progress):
        if progress["global_step"] % self.args.val_every == 0:
            self.validate(progress)

    def validate(self, progress):
        args = self.args
        miou = walk_miou(self.net, args.voc12_root, args.val_list, self.dict_dir, self.classes, args.dup, args.scale,
                         self.device)
        better = miou > progress["best"]
        if better:
            progress["best"] = miou
            save_weights(self.net, self.path)
        self.log.line(f"step {progress['global_step']}: random walk mIoU {miou:.2f}{', best so far' if better else ''}")


def describe_selection(args, select):
    if select == "best":
        return (f"selection: best.pth is chosen by mIoU of the walk on the masks of {args.val_list}, every "
                f"{args.val_every} steps: ground truth picks the checkpoint (released; --select last uses none)")
    return "selection: best.pth is the last epoch; no ground truth is used"


def train(net, loader, optimizer, progress, max_step, args, folder, best, device, log):
    """All epochs that are left, with a checkpoint after each."""
    last = min(args.epochs, args.stop_epoch) if args.stop_epoch is not None else args.epochs

    def step(batch, global_step):
        return train_step(net, optimizer, batch, args.amp, device)

    with StopSignal() as stop:
        while progress["epoch"] < last:
            started = time.time()
            net.train()
            loader.batch_sampler.start(progress["epoch"], args.batch_size, progress["step"])
            done = run_epoch(loader, step, optimizer, progress, max_step, TERMS, stop, best)
            progress["seconds"] += time.time() - started
            if done:
                record = epoch_record(progress, max_step, TERMS) | {"seconds": progress["seconds"]}
                if best and progress["epoch"] == args.epochs - 1 and progress["global_step"] % args.val_every:
                    best.validate(progress)
                record |= {"best": progress["best"]} if best else {}
                log.line(f"epoch {progress['epoch']}: {describe_terms(record, TERMS)}, {record['seconds']:.0f} s")
                save_weights(net, folder / f"{progress['epoch']:02d}.pth")
                if not best:
                    save_weights(net, folder / "best.pth")
                log.epoch(record)
                next_epoch(progress, TERMS)
            save_resume(folder / "resume.pth", net, optimizer, progress, vars(args))
            if stop.number is not None:
                stop.stop(f"at epoch {progress['epoch']}, step {progress['step']}")


def main(args):
    check_alphas(args)
    if args.crop_size % STRIDE:
        raise UserError(f"--crop_size {args.crop_size}: must be a multiple of {STRIDE}, the size of a cell")
    device = choose_device(args.device)
    torch.manual_seed(args.seed)
    classes = load_classes(args.classes)
    experiment = Path(args.experiment) / args.name
    dataset, batches = build_data(args, experiment)
    select = args.select if can_validate(args.select, args.val_list, args.voc12_root, experiment / "dict") else "last"
    net = build_net(args, device)
    groups = net.param_groups(args.lr, args.wt_dec, args.scratch_lr_mult)
    optimizer = build_optimizer(args.optimizer, groups, args.momentum)

    run = f"aff{args.low:02d}{args.high:02d}{args.dup:02d}"
    folder = experiment / "ckpt_aff" / run
    remove_stale(folder)
    progress = new_progress(TERMS, args.lr) | {"best": -1.0}
    if start_or_resume(folder, folder / "resume.pth", args.resume, args.overwrite):
        progress = load_resume(folder / "resume.pth", net, optimizer, vars(args), may_change=("epochs",))
    max_step = len(dataset) // args.batch_size * args.epochs
    log = Log(experiment, f"log_{run}", first_epoch=progress["epoch"])
    describe_run(log, "train_aff.py", device, args.seed, vars(args))
    log.line(f"AffinityNet: {count_parameters(net):,} parameters, {len(dataset)} images, {max_step} steps of "
             f"{args.batch_size}")
    describe_groups(log, optimizer)
    log.line(describe_selection(args, select))

    loader = train_loader(dataset, batches, args.num_workers, device.type == "cuda")
    best = BestCheckpoint(net, args, classes, experiment, folder, device, log) if select == "best" else None
    train(net, loader, optimizer, progress, max_step, args, folder, best, device, log)
    log.line(f"done: {folder}; next: python infer_aff.py --name {args.name} --low {args.low} --high {args.high} "
             f"--dup {args.dup} --train_list {args.train_list}")
    log.close()


if __name__ == "__main__":
    run_script(main, get_args_parser())
