"""Stage 3: train AffinityNet on where the CRF of two background powers agree (Ahn and Kwak, CVPR 2018).

reads   experiment/NAME/crf/{low:02d} and crf/{high:02d} (infer.py --crf), --voc12_root, --train_list;
        for choosing the best checkpoint experiment/NAME/dict and the masks of --val_list
writes  experiment/NAME/ckpt_aff/aff{low:02d}{high:02d}{dup:02d}/{epoch:02d}.pth, best.pth, resume.pth, log_aff.txt
        python train_aff.py --name N --low 2 --high 21 --dup 19

Low background power gives sure objects, high gives sure background; what neither is sure of teaches nothing. As
released, best.pth is the checkpoint with the best random walk on the masks of --val_list, so ground truth is used to
choose it; --select last uses none.
"""

from functools import partial
from pathlib import Path

import torch

from models.affinity import DROPOUT, AffinityNet, affinity_loss
from models.checkpoint import load_weights, save_weights
from models.resnet38d import ResNet38d, count_parameters
from tool.affinity_labels import STRIDE
from tool.io.files import UserError, read_list
from tool.run.arguments import (
    Parser,
    add_common_arguments,
    add_data_arguments,
    add_training_arguments,
    add_walk_arguments,
    check_alphas,
    flag,
    next_command,
    positive_int,
)
from tool.run.check import Check, check_training
from tool.run.device import choose_device, memory_format
from tool.run.distributed import join_world
from tool.run.failures import Failures
from tool.run.resume import Run, start_weights
from tool.run.script import run_script
from tool.run.training import check_batches, fit, new_progress, prepare_network, update
from voc12.classes import load_classes
from voc12.data import AffinitySet, EpochBatches, Substituting, check_images, check_scores, image_paths, train_loader
from voc12.transforms import AffinityView
from voc12.validation import can_validate, walk_miou

TERMS = ("total", "bg", "fg", "neg")
START_WEIGHTS = ("pretrained/res38_cls.pth", "pretrained/resnet_38d.params")


def get_args_parser():
    parser = Parser("train_aff.py", "AEFT stage 3: train AffinityNet.")
    add_common_arguments(parser)
    add_data_arguments(parser, labels=False)
    parser.add_list(parser.data, "--train_list", "voc12/train_aug.txt", "train", "list of training images")
    text = "list with masks and maps on which the best checkpoint is chosen, or none"
    parser.add_list(parser.data, "--val_list", "voc12/train.txt", "train", text)
    add = parser.network.add_argument
    text = f"start weights, or none; auto: the first that exists of {' '.join(START_WEIGHTS)}"
    add("--pretrained", type=str, default="auto", help=text)
    add_training_arguments(parser, epochs=8, crop_size=448, jitter=[0.3, 0.3, 0.3, 0.1], scratch_lr_mult=10.0)
    add_walk_arguments(parser)
    add = parser.schedule.add_argument
    add("--val_every", type=positive_int, default=500, help="steps between two validations")
    text = "what best.pth is: the best walk on the masks of --val_list (released), or the last epoch"
    add("--select", type=str, default="best", choices=["best", "last"], help=text)
    return parser


def build_data(args, experiment, num_labels, world):
    """The training set, and the sampler that gives its batches."""
    ids = read_list(args.train_list)
    folders = [experiment / "crf" / f"{alpha:02d}" for alpha in (args.low, args.high)]
    if args.on_error == "stop":
        check_images(ids, args.voc12_root)
    for folder, alpha in zip(folders, (args.low, args.high)) if args.on_error == "stop" else ():
        check_scores(ids, folder, args.train_list, f"infer.py --crf --alphas {alpha}")
    check_batches([args.batch_size], len(ids), args.train_list, world)
    view = AffinityView(args.crop_size, args.scale, args.jitter)
    return (
        AffinitySet(args.voc12_root, ids, *folders, view, args.seed, num_labels),
        EpochBatches(len(ids), args.seed, world.rank, world.size),
    )


def build_net(args):
    """AffinityNet with its start weights, frozen as released when there are any -> (network, their path or none)."""
    net = AffinityNet(ResNet38d(args.width, DROPOUT if args.dropout else (0.0, 0.0)))
    path = args.pretrained
    if path == "auto":
        path = next((p for p in START_WEIGHTS if Path(p).is_file()), None)
        if path is None:
            raise UserError(
                f"none of {' '.join(START_WEIGHTS)} is there; see pretrained/README.md, or give "
                "--pretrained FILE (a checkpoint of train.py will do) or --pretrained none"
            )
    if path != "none":
        load_weights(net, path, part="trunk")
        net.freeze()
    return net, path


def train_step(batch, progress, model, optimizer, amp, device, world):
    """One update; returns {"total", "bg", "fg", "neg"} of the global batch as floats."""
    _, image, masks = batch
    image, masks = image.to(device, non_blocking=True), masks.to(device, non_blocking=True)
    image = image.contiguous(memory_format=memory_format(device, amp))
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp):
        affinity = model(image)  # B x offsets x anchors
    terms = affinity_loss(affinity.float(), *masks.unbind(1), over_all=world.sum)
    update(optimizer, terms["total"], world)
    return dict(zip(TERMS, world.sum(torch.stack([terms[k].detach() for k in TERMS])).tolist()))


class BestCheckpoint:
    """Validates every `val_every` steps and keeps the best network as best.pth; progress["best"] is its mIoU."""

    def __init__(self, net, args, classes, dict_dir, path, device, run):
        self.net, self.args, self.classes, self.device, self.run = net, args, classes, device, run
        self.dict_dir, self.path = dict_dir, path

    def __call__(self, progress):
        if progress["global_step"] % self.args.val_every == 0:
            self.validate(progress)

    def validate(self, progress):
        args = self.args
        miou = walk_miou(
            self.net,
            args.voc12_root,
            args.val_list,
            self.dict_dir,
            self.classes,
            args.dup,
            args.scale,
            self.device,
            self.run.world,
        )
        better = miou > progress["best"]
        if better:
            progress["best"] = miou
            if self.run.world.main:
                save_weights(self.net, self.path)
        self.run.log.line(
            f"step {progress['global_step']}: random walk mIoU {miou:.2f}{', best so far' if better else ''}"
        )


def describe_selection(args, select):
    if select == "best":
        return (
            f"selection: best.pth is chosen by mIoU of the walk on the masks of {args.val_list}, every "
            f"{args.val_every} steps: ground truth picks the checkpoint (released; --select last uses none)"
        )
    return "selection: best.pth is the last epoch; no ground truth is used"


def finish_epoch(progress, net, args, folder, best, world):
    """Save the weights, and validate after the last epoch; returns numbers and text for the log."""
    if best and progress["epoch"] == args.epochs - 1 and progress["global_step"] % args.val_every:
        best.validate(progress)
    if world.main:
        save_weights(net, folder / f"{progress['epoch']:02d}.pth")
        if not best:
            save_weights(net, folder / "best.pth")
    return {"best": progress["best"]} if best else {}, ""


def main(args):
    check_alphas(args)
    if args.crop_size % STRIDE:
        raise UserError(f"--crop_size {args.crop_size}: must be a multiple of {STRIDE}, the size of a cell")
    world, device = join_world(choose_device(args.device))
    torch.manual_seed(args.seed)
    classes = load_classes(args.classes)
    experiment = Path(args.experiment) / args.name
    dataset, batches = build_data(args, experiment, len(classes) + 1, world)
    select = args.select if can_validate(args.select, args.val_list, args.voc12_root, experiment / "dict") else "last"
    net, path = build_net(args)
    lists = [args.train_list] + [args.val_list] * (select == "best")

    powers = f"aff{args.low:02d}{args.high:02d}{args.dup:02d}"
    run = Run(experiment, experiment / "ckpt_aff" / powers, f"log_{powers}", args, world, device)
    model, optimizer = prepare_network(net, args, device, world)
    step = partial(train_step, model=model, optimizer=optimizer, amp=args.amp, device=device, world=world)
    max_step = len(dataset) // args.batch_size * args.epochs
    if args.check:
        check = Check(world, f"{device} works, images and CRF scores are there, weights fit")
        return check_training(
            check,
            args,
            image_paths(args.voc12_root, dataset.ids),
            train_loader(dataset, batches, 0, pin_memory=False),
            [(0, args.batch_size, max_step)],
            step,
            net,
            TERMS,
            run,
        )
    progress = run.begin(net, optimizer, new_progress(TERMS, args.lr) | {"best": -1.0}, lists, start_weights(path))
    run.describe(
        "train_aff.py",
        device,
        optimizer,
        [
            f"AffinityNet: {count_parameters(net):,} parameters, {len(dataset)} images, {max_step} steps of "
            f"{args.batch_size}",
            describe_selection(args, select),
        ],
    )

    best = None
    if select == "best":
        best = BestCheckpoint(net, args, classes, experiment / "dict", run.folder / "best.pth", device, run)
    finish = partial(finish_epoch, net=net, args=args, folder=run.folder, best=best, world=world)
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
        batch_size=lambda epoch: args.batch_size,
        terms=TERMS,
        after_step=best,
    )
    powers_flags = ("--low", args.low, "--high", args.high, "--dup", args.dup, "--scale", args.scale)
    run.end(
        "train_aff.py",
        progress,
        failures,
        next_command("infer_aff.py", args, *powers_flags, *flag("--train_list", args.train_list)),
    )


if __name__ == "__main__":
    run_script(main, get_args_parser())
