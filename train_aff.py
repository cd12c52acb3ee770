"""Stage 3: train AffinityNet on where the CRF of two background powers agree (Ahn and Kwak, CVPR 2018).

reads   experiment/NAME/crf/{low:02d} and crf/{high:02d} (infer.py --crf), --voc12_root, --train_list;
        for choosing the best checkpoint experiment/NAME/dict and the masks of --val_list
writes  experiment/NAME/ckpt_aff/aff{low:02d}{high:02d}{dup:02d}/{epoch:02d}.pth, best.pth, resume.pth;
        experiment/NAME/log_aff{low:02d}{high:02d}{dup:02d}.txt, .jsonl (one line an epoch)
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
from models.resnet38d import count_parameters
from models.trunks import make_trunk
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
from tool.run.check import Check
from tool.run.device import choose_device
from tool.run.distributed import join_world
from tool.run.failures import Failures
from tool.run.record import read_record
from tool.run.resume import Progress, fingerprint, start_weights
from tool.run.script import run_script
from tool.run.training import (
    BEST_FILE,
    IMAGENET_WEIGHTS,
    PSA_WEIGHTS,
    BestCheckpoint,
    Run,
    build_optimizer,
    check_batches,
    check_training,
    classifiers,
    first_weights,
    prepare_network,
    train_one_epoch,
)
from voc12.classes import load_classes
from voc12.data import (
    AffinitySet,
    EpochBatches,
    Substituting,
    WalkSet,
    check_images,
    check_scores,
    image_paths,
    train_loader,
)
from voc12.transforms import AffinityView, look_of
from voc12.validation import can_validate, walk_miou

START_WEIGHTS = (PSA_WEIGHTS, IMAGENET_WEIGHTS)


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


def build_data(args, experiment, num_labels, net, world):
    """The training set, and the sampler that gives its batches."""
    if args.crop_size % net.stride:
        raise UserError(f"--crop_size {args.crop_size}: must be a multiple of {net.stride}, the size of a cell")
    ids = read_list(args.train_list)
    folders = {alpha: experiment / "crf" / f"{alpha:02d}" for alpha in (args.low, args.high)}
    if args.on_error == "stop":
        check_images(ids, args.voc12_root)
        for alpha, folder in folders.items():
            check_scores(ids, folder, args.train_list, f"run infer.py --crf --alphas {alpha}")
    check_batches([args.batch_size], len(ids), args.train_list, world)
    view = AffinityView(args.crop_size, args.scale, args.jitter, look_of(net.trunk))
    dataset = AffinitySet(args.voc12_root, ids, *folders.values(), view, args.seed, num_labels, net.stride)
    return dataset, EpochBatches(len(ids), args.seed, world.rank, world.size)


def describe_data(args, experiment, ids, classes, select):
    """{what a run is trained on, in words: its fingerprint}. select: how best.pth is chosen."""

    def origin(folder):
        return (read_record(experiment / folder) or {}).get("origin")

    chosen_with = [read_list(args.val_list), origin("dict")] if select == "best" else []
    return {
        "images of --train_list": fingerprint(ids),
        "class names": fingerprint(list(classes)),
        "choice of best.pth (--select, --val_list, maps)": fingerprint(select, *chosen_with),
    } | {f"CRF scores of crf/{alpha:02d}": origin(f"crf/{alpha:02d}") for alpha in (args.low, args.high)}


def build_net(args):
    """AffinityNet with its start weights, frozen as released when there are any -> (network, their path or none)."""
    dropout = DROPOUT if args.dropout else (0.0, 0.0)
    trunk = make_trunk(args.trunk, args.width, args.output_stride, dropout, fetch=args.pretrained == "timm")
    trunk.checkpoint_activations = args.checkpoint_activations
    net = AffinityNet(trunk)
    path = find_weights(args) if args.pretrained == "auto" else args.pretrained
    if path not in ("none", "timm"):
        load_weights(net, path, part="trunk")
    if path != "none":
        net.freeze()
    return net, path


def find_weights(args):
    """What --pretrained auto takes: for resnet38d a file of START_WEIGHTS, for others the experiment's classifier."""
    if args.trunk == "resnet38d":
        return first_weights(START_WEIGHTS)
    return first_weights(classifiers(Path(args.experiment) / args.name))


class Criterion:
    """The losses of a batch, for tool/run/training.py: train_step."""

    terms = ("total", "bg", "fg", "neg")

    def __init__(self, world):
        self.world = world

    def __call__(self, model, image, masks, progress):
        """masks: B x 3 x offsets x anchors, the pairs of both background, of one class, of different classes."""
        losses = affinity_loss(model(image).float(), *masks.unbind(1), over_all=self.world.sum)
        return losses["total"], self.world.sum(torch.stack([losses[k].detach() for k in self.terms]))


def describe_selection(args, select):
    if select == "last":
        return "selection: best.pth is the last epoch; no ground truth is used"
    how = f"by mIoU of the walk on the masks of {args.val_list}, every {args.val_every} steps"
    return f"selection: best.pth is chosen {how}: ground truth picks it (released; --select last uses none)"


def next_stage(args, run, progress):
    """The command of infer_aff.py; with the last epoch's checkpoint where there is no best one."""
    words = ["--low", args.low, "--high", args.high, "--dup", args.dup, "--scale", args.scale]
    if not (run.folder / BEST_FILE).exists():
        words += flag("--weights", run.checkpoint(progress.epoch - 1))
    return next_command("infer_aff.py", args, *words, *flag("--train_list", args.train_list))


def main(args):
    check_alphas(args)
    world, device = join_world(choose_device(args.device))
    torch.manual_seed(args.seed)
    classes = load_classes(args.classes)
    experiment = Path(args.experiment) / args.name
    net, weights = build_net(args)
    dataset, batches = build_data(args, experiment, len(classes) + 1, net, world)
    select = args.select if can_validate(args.select, args.val_list, args.voc12_root, experiment / "dict") else "last"
    model = prepare_network(net, device, world, args.amp, args.seed, args.compile)
    groups = net.param_groups(args.lr, args.wt_dec, args.scratch_lr_mult)
    optimizer = build_optimizer(args.optimizer, groups, args.momentum)
    criterion = Criterion(world)
    powers = f"aff{args.low:02d}{args.high:02d}{args.dup:02d}"
    steps = len(dataset) // args.batch_size * args.epochs
    run = Run(args, world, device, experiment / "ckpt_aff" / powers / "{:02d}.pth", f"log_{powers}", steps)
    if args.check:
        check = Check(world, f"{device} works, images and CRF scores are there, weights fit")
        loader = train_loader(dataset, batches, 0, pin_memory=False)
        paths, phases = image_paths(args.voc12_root, dataset.ids), [(0, args.batch_size, steps)]
        return check_training(check, run, paths, phases, loader, model, criterion, optimizer)

    with run:
        progress = Progress(sums=[0.0] * len(criterion.terms), lr=args.lr)
        data = describe_data(args, experiment, dataset.ids, classes, select)
        lists = [args.train_list] + [args.val_list] * (select == "best")
        progress = run.begin(net, optimizer, progress, data, lists, start_weights(weights))
        counts = f"{count_parameters(net):,} parameters, {len(dataset)} images, {steps} steps of {args.batch_size}"
        run.describe("train_aff.py", [f"AffinityNet: {counts}", describe_selection(args, select)])
        score = None
        if select == "best":
            walks = WalkSet(
                args.voc12_root,
                read_list(args.val_list),
                experiment / "dict",
                len(classes),
                args.scale,
                look_of(net.trunk),
            )
            score = partial(walk_miou, net, walks, args.dup, device, world)
        best = BestCheckpoint(score, args.val_every, net, run, save_weights, "random walk mIoU")
        run.restore_checkpoint(progress, save_weights)
        best.restore(progress)
        failures = Failures(args.on_error, run.folder / "failed.txt")
        samples = Substituting(dataset, failures) if failures.skip else dataset
        loader = train_loader(samples, batches, args.num_workers, device.type == "cuda")
        for epoch in range(progress.epoch, run.last_epoch):
            batches.start(epoch, args.batch_size, progress.step)
            losses = train_one_epoch(model, criterion, loader, optimizer, progress, run, best.after_step)
            best.after_epoch(progress, epoch == args.epochs - 1)
            if world.main:
                save_weights(net, run.checkpoint(epoch))
            run.finish_epoch(progress, losses, {"best": progress.best} if score else None)
        run.end("train_aff.py", progress, failures, next_stage(args, run, progress))


if __name__ == "__main__":
    run_script(main, get_args_parser())
