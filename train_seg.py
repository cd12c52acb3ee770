"""Stage 5: train a segmentation network on pseudo labels; it needs no image labels any more.

reads   experiment/NAME/LABELS/ID.png (infer_aff.py, or masks of any other method), --voc12_root, --train_list;
        the masks of --val_list, where there are any
writes  experiment/NAME/ckpt_seg/{arch}/{epoch:02d}.pth, best.pth, resume.pth; log_seg_{arch}.txt, .jsonl beside them
        python train_seg.py --name N --labels rw/02_2119

Masks are read as ids, 255 is ignored. Every epoch is scored on the masks of --val_list. best.pth, which infer_seg.py
takes, is the last epoch; with --select best the one that scores best, so ground truth chooses it.
"""

import argparse
from pathlib import Path

import torch

from models.checkpoint import load_weights, save_weights
from models.deeplab import (
    DEEPLAB,
    MSC_SCALES,
    RESNET38D,
    SMP,
    make_segmentation_net,
    multi_scale_loss,
    network_settings,
)
from models.resnet38d import count_parameters
from tool.io.files import UserError, portable, read_list
from tool.io.images import BACKGROUND, IGNORE, header_size
from tool.run.arguments import (
    Parser,
    add_arch_argument,
    add_common_arguments,
    add_data_arguments,
    add_training_arguments,
    flag,
    next_command,
    positive,
)
from tool.run.check import Check
from tool.run.device import choose_device
from tool.run.distributed import join_world
from tool.run.failures import Failures
from tool.run.recipes import RECIPES
from tool.run.record import read_record
from tool.run.resume import Progress, fingerprint
from tool.run.script import run_script
from tool.run.settings import remember
from tool.run.training import (
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
    EpochBatches,
    MaskedSet,
    SegSet,
    Substituting,
    check_images,
    check_scores,
    image_paths,
    labels_folder,
    train_loader,
)
from voc12.transforms import SegView, look_of
from voc12.validation import SegmentationScore, masked_ids


def get_args_parser():
    parser = Parser("train_seg.py", "AEFT stage 5: train a segmentation network on pseudo labels.")
    add_common_arguments(parser)
    add_data_arguments(parser, labels=False)
    parser.add_list(parser.data, "--train_list", "voc12/train_aug.txt", "train", "list of training images")
    parser.add_list(parser.data, "--val_list", "voc12/val.txt", "val", "list with masks to score every epoch, or none")
    add, switch = parser.data.add_argument, argparse.BooleanOptionalAction
    add("--labels", type=str, required=True, help="folder of label masks (PNG), below experiment/NAME or any path")
    text = "factor on both sides of an image before the crop, drawn from this range"
    add("--random_scale", type=positive, nargs=2, metavar=("MIN", "MAX"), help=text)
    add("--scale_by_batch", action=switch, help="one factor for all images of a batch, not one for each")
    text = "label where a crop reaches beyond its image: 255 is ignored, 0 is background"
    add("--padding", type=int, choices=[IGNORE, BACKGROUND], help=text)
    add_arch_argument(parser)
    text = "start weights, timm to let it fetch them, or none; auto: the experiment's newest classifier where that has "
    text += f"the same trunk, else {PSA_WEIGHTS} or {IMAGENET_WEIGHTS} for resnet38d, and timm for others"
    parser.network.add_argument("--pretrained", type=str, help=text)
    add_training_arguments(parser, epochs=30, crop_size=321, jitter=[0.3, 0.3, 0.3, 0.1], scratch_lr_mult=10.0)
    text = "cross entropy at scales 1, 0.75, 0.5 and of their maximum, summed, instead of at scale 1 alone"
    parser.method.add_argument("--msc", action=switch, help=text)
    text = "what best.pth is: the last epoch, or the best mIoU on the masks of --val_list"
    parser.schedule.add_argument("--select", type=str, default="last", choices=["last", "best"], help=text)
    text = "defaults of the other flags, ours or MCTformer's; flags that are given win"
    parser.add_presets(parser.schedule, "--recipe", RECIPES, text)
    return parser


def check_args(args, val_ids, world):
    """Contradictions that argparse cannot see."""
    if args.random_scale[0] > args.random_scale[1]:
        raise UserError(f"--random_scale {args.random_scale[0]} {args.random_scale[1]}: MIN must not be above MAX")
    if args.arch.startswith(SMP) and args.batch_size < 2 * world.size:
        raise UserError(f"--batch_size {args.batch_size}: {args.arch} needs at least 2 images a process")
    if args.select == "best" and val_ids is None:
        raise UserError(f"--select best: {args.val_list} has no masks to choose with; --select last needs none")


def build_data(args, folder, num_labels, look, world):
    """The training set, and the sampler that gives its batches. folder: of the label masks."""
    ids = read_list(args.train_list)
    if args.on_error == "stop":
        check_images(ids, args.voc12_root)
        check_scores(ids, folder, args.train_list, "run infer_aff.py on that list, or check --labels", suffix="png")
    check_batches([args.batch_size], len(ids), args.train_list, world)
    view = SegView(args.random_scale, args.crop_size, args.jitter, args.padding, look)
    batch_size = args.batch_size if args.scale_by_batch else None
    return (
        SegSet(args.voc12_root, ids, folder, num_labels, view, args.seed, batch_size),
        EpochBatches(len(ids), args.seed, world.rank, world.size),
    )


def describe_data(dataset, folder, classes, val_ids):
    """{what a run is trained on, in words: its fingerprint}; of masks of no run of ours, by their files' sizes."""
    record = read_record(folder)
    sizes = [path.stat().st_size if path.is_file() else None for path in dataset.labels.values()]
    return {
        "images of --train_list": fingerprint(dataset.ids),
        "class names": fingerprint(list(classes)),
        "masks of --labels": record["origin"] if record else fingerprint(sizes),
        "images of --val_list": fingerprint(val_ids),
    }


def find_weights(args, experiment):
    """--pretrained, its `auto` resolved: a path, `timm` or `none`."""
    if args.pretrained != "auto":
        return args.pretrained
    candidates = classifiers(experiment)[:1] if args.arch == DEEPLAB + args.trunk else []
    if args.arch == RESNET38D:
        return first_weights([*candidates, PSA_WEIGHTS, IMAGENET_WEIGHTS])
    return str(candidates[0]) if candidates else "timm"


def build_net(args, weights, num_labels):
    """The network; where it starts from pretrained weights, BatchNorm and stem of its trunk are frozen."""
    network = network_settings(args.arch, vars(args))
    net = make_segmentation_net(**network, num_labels=num_labels, fetch=weights == "timm")
    net.trunk.checkpoint_activations = args.checkpoint_activations
    if not args.dropout:
        net.drop_dropout()
    if weights not in ("timm", "none"):
        load_weights(net, weights, part="trunk")
    return net if weights == "none" else net.freeze()


class Criterion:
    """The loss of a batch, for tool/run/training.py: train_step. scales: of `multi_scale_loss`."""

    terms = ("total",)

    def __init__(self, scales, world):
        self.scales, self.world = scales, world

    def __call__(self, model, image, label, progress):
        loss = multi_scale_loss(model, image, label, self.scales, over_all=self.world.sum)
        return loss, self.world.sum(loss.detach()[None])


def describe_selection(args, val_ids):
    if args.select == "best":
        return f"selection: best.pth has the best mIoU on the masks of {args.val_list}: ground truth picks it"
    text = f"the masks of {args.val_list} are scored to be looked at" if val_ids else "no masks are scored"
    return f"selection: best.pth is the last epoch; {text}"


def validate(validation, best, progress):
    """Write best.pth where this network is to be it, score it where there are masks: numbers and text for the log."""
    if best.score:
        best.validate(progress)
    else:
        best.save()
        if validation is None:
            return {}, ""
        validation()
    return validation.scores, "mIoU {miou:.2f} ({miou_present:.2f} present)".format(**validation.scores)


def main(args):
    args.arch = args.arch or DEEPLAB + args.trunk
    world, device = join_world(choose_device(args.device))
    val_ids = masked_ids(args.val_list, args.voc12_root)
    check_args(args, val_ids, world)
    torch.manual_seed(args.seed)
    classes = load_classes(args.classes)
    experiment = Path(args.experiment) / args.name
    folder, weights = labels_folder(experiment, args.labels), find_weights(args, experiment)
    net = build_net(args, weights, len(classes) + 1)
    dataset, batches = build_data(args, folder, len(classes) + 1, look_of(net.trunk), world)
    model = prepare_network(net, device, world, args.amp, args.seed, args.compile)
    groups = net.param_groups(args.lr, args.wt_dec, args.scratch_lr_mult)
    optimizer = build_optimizer(args.optimizer, groups, args.momentum)
    criterion = Criterion(MSC_SCALES if args.msc else MSC_SCALES[:1], world)
    steps = len(dataset) // args.batch_size * args.epochs
    place = portable(experiment / "ckpt_seg" / args.arch)
    run = Run(args, world, device, place / "{:02d}.pth", f"log_seg_{place.name}", steps)
    if args.check:
        check = Check(world, f"{device} works, images and masks are there, weights fit")
        paths, phases = image_paths(args.voc12_root, dataset.ids), [(0, args.batch_size, steps)]
        check.try_all(lambda i: dataset.label(i, header_size(paths[i])).size, dataset.ids, "masks")
        loader = train_loader(dataset, batches, 0, pin_memory=False)
        return check_training(check, run, paths, phases, loader, model, criterion, optimizer)

    with run:
        progress = Progress(sums=[0.0] * len(criterion.terms), lr=args.lr)
        data = describe_data(dataset, folder, classes, val_ids)
        lists = [args.train_list] + [args.val_list] * (val_ids is not None)
        progress = run.begin(net, optimizer, progress, data, lists, weights if Path(weights).is_file() else None)
        world.first(lambda: remember(args, keep=True))
        counts = f"{count_parameters(net):,} parameters, {len(dataset)} images, {steps} steps of {args.batch_size}"
        selection = describe_selection(args, val_ids)
        run.describe("train_seg.py", [f"{args.arch}: {counts}; starts from {weights}", selection])
        masked = MaskedSet(args.voc12_root, val_ids or [], len(classes) + 1, dataset.view.look)
        validation = SegmentationScore(net, masked, device, args.num_workers, world) if val_ids else None
        best = BestCheckpoint(validation if args.select == "best" else None, 1, net, run, save_weights)
        run.restore_checkpoint(progress, save_weights)
        best.restore(progress)
        failures = Failures(args.on_error, run.folder / "failed.txt")
        samples = Substituting(dataset, failures) if failures.skip else dataset
        loader = train_loader(samples, batches, args.num_workers, device.type == "cuda")
        for epoch in range(progress.epoch, run.last_epoch):
            batches.start(epoch, args.batch_size, progress.step)
            losses = train_one_epoch(model, criterion, loader, optimizer, progress, run)
            if world.main:
                save_weights(net, run.checkpoint(epoch))
            scores, text = validate(validation, best, progress)
            run.finish_epoch(progress, losses, scores, text)
        words = flag("--arch", args.arch) if args.arch != DEEPLAB + args.trunk else []
        if not best.path.exists():
            words += flag("--weights", run.checkpoint(progress.epoch - 1))
        words += flag("--infer_list", args.val_list if val_ids else args.train_list)
        run.end("train_seg.py", progress, failures, next_command("infer_seg.py", args, *words))


if __name__ == "__main__":
    run_script(main, get_args_parser())
