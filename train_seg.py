"""Stage 5: train a segmentation network on pseudo labels; it needs no image labels any more.

reads   experiment/NAME/LABELS/ID.png (infer_aff.py, or masks of any other method), --voc12_root, --train_list;
        CORRECTED/ID.png, which wins over them (import_labels.py); the masks of --val_list, where there are any
writes  experiment/NAME/ckpt_seg/{arch}/{epoch:02d}.pth, best.pth, resume.pth; log_seg_{arch}.txt, .jsonl beside them
        python train_seg.py --name N --labels rw/02_2119

Masks are read as ids, 255 is ignored. Every epoch is scored on the masks of --val_list. best.pth, which infer_seg.py
takes, is the last epoch; with --select best the one that scores best, so ground truth chooses it.
"""

from functools import partial

import torch

from engine import flags
from engine.distributed import processes
from engine.experiment import Experiment
from engine.recipes import LIGHT_SEG, RECIPES
from engine.record import origin
from engine.training import Plan, Training, Validation, train_one_epoch, training_ids
from models import deeplab
from models.checkpoint import START_WEIGHTS, start_weights
from models.deeplab import DEEPLAB, RESNET38D, SMP
from models.resnet38d import STEM
from models.trunks import TIMM
from tool.cli import fraction, positive, run_script
from tool.io.files import UserError, fingerprint
from tool.io.images import BACKGROUND, IGNORE
from voc12.classes import load_classes
from voc12.data import SegSet
from voc12.paths import image_path, masked_ids, say_odd_masks, usual_side
from voc12.transforms import SegView, look_of
from voc12.validation import segmentation_score


def get_args_parser():
    text = "AEFT stage 5: train a segmentation network on pseudo labels."
    parser = flags.Parser("train_seg.py", text, remembers=True)
    flags.add_common(parser)
    flags.add_data(parser, labels=False)
    parser.add_list("--val_list", "voc12/val.txt", "val", "list with masks to score every epoch, or none")
    add = parser.data
    text = "folder of label masks (PNG), below experiment/NAME or any path"
    add("--labels", role=flags.CONTENT, type=str, required=True, help=text)
    text = "folder of masks that win over those of --labels, of as many images as there are"
    add("--corrected", role=flags.CONTENT, type=str, help=text)
    text = "factor on both sides of an image before the crop, drawn from this range"
    add("--random_scale", type=positive, nargs=2, metavar=("MIN", "MAX"), help=text)
    add("--scale_by_batch", action=flags.SWITCH, help="one factor for all images of a batch, not one for each")
    text = "label where a crop reaches beyond its image: 255 is ignored, 0 is background"
    add("--padding", type=int, choices=[IGNORE, BACKGROUND], help=text)
    flags.add_arch(parser)
    flags.add_max_side(parser)
    text = "start weights, timm to let it fetch them, or none; auto: the experiment's newest classifier where that has "
    text += f"the same trunk, else {' or '.join(START_WEIGHTS)} for resnet38d, packaged ones or timm for others; "
    text += "imagenet: the same without the classifier"
    parser.network("--pretrained", role=flags.CONTENT, type=str, help=text)
    flags.add_training(parser, epochs=30, crop_size=321, jitter=[0.3, 0.3, 0.3, 0.1], scratch_lr_mult=10.0)
    add = parser.network
    text = "probabilities of --dropout in the last two blocks of resnet38d"
    add("--dropout_rates", type=fraction, nargs=2, metavar=("B6", "B7"), help=text)
    text = "of resnet38d with pretrained weights freeze conv1a alone, not b2 as well"
    add("--train_b2", action=flags.SWITCH, help=text)
    text = "labels are brought to the cells of the logits, or logits to the pixels of the labels"
    parser.method("--loss_at", type=str, choices=deeplab.LOSS_AT, help=text)
    text = "cross entropy at scales 1, 0.75, 0.5 and of their maximum, summed, instead of at scale 1 alone"
    parser.method("--msc", action=flags.SWITCH, help=text)
    text = "what best.pth is: the last epoch, or the best mIoU on the masks of --val_list"
    parser.schedule("--select", type=str, default="last", choices=["last", "best"], help=text)
    text = "defaults of the other flags, ours or MCTformer's; flags that are given win"
    parser.add_presets(parser.schedule, "--recipe", RECIPES, text)
    parser.add_other(LIGHT_SEG)
    return parser


def find_weights(args, classifiers):
    """--pretrained, its `auto` resolved. classifiers: checkpoints, the newest first."""
    own = classifiers if args.arch == DEEPLAB + args.trunk else []
    trunk = args.arch.removeprefix(DEEPLAB)
    if args.arch.startswith(SMP):
        trunk = TIMM + args.arch.rpartition(":")[2]
    return start_weights(args.pretrained, trunk, own)


def build_net(args, weights, num_labels):
    """The network with its start weights."""
    network = deeplab.network_settings(args.arch, vars(args))
    options = {"fetch": weights == "timm", "dropout": args.dropout_rates}
    net = deeplab.make_segmentation_net(**network, num_labels=num_labels, **options)
    if args.train_b2 and args.arch == RESNET38D:
        net.trunk.stem = STEM[:1]
    return net.start(weights, args.dropout, args.checkpoint_activations)


def build_data(args, classes, net):
    """The training set, and the Validation, None without."""
    validation = build_validation(args, classes)
    folder, ids = Experiment.of(args).labels(args.labels), training_ids(args)
    view = SegView(args.random_scale, args.crop_size, args.jitter, args.padding, look_of(net.trunk), args.max_side)
    batch_size = args.batch_size if args.scale_by_batch else None
    dataset = SegSet(args.voc12_root, ids, folder, len(classes) + 1, view, args.seed, batch_size)
    dataset.correct(args.corrected)
    if args.on_error == "stop":
        dataset.require(folder, args.train_list)
    side = usual_side([image_path(args.voc12_root, i) for i in ids])
    args.side = min(side, args.max_side or side)  # for run.json: infer_seg.py --images sees photographs so
    if origin(folder) is None:  # ours hold what they hold
        say_odd_masks(dataset.labels.values())
    return dataset, validation


def build_validation(args, classes):
    """mIoU of every epoch; None where there are no masks."""
    ids = masked_ids(args.val_list, args.voc12_root)
    if ids is None:
        if args.select == "best":
            raise UserError(f"--select best: {args.val_list} has no masks to choose with; --select last needs none")
        return None
    data = {name: getattr(args, name) for name in ("voc12_root", "num_workers", "max_side")}
    score = partial(segmentation_score, ids=ids, num_labels=len(classes) + 1, **data)
    text = "mIoU {miou:.2f} ({miou_present:.2f} present)"
    return Validation(score, ids, "mIoU", text, select=args.select == "best")


def main(args):
    if args.arch.startswith(deeplab.SMP) and args.batch_size < 2 * processes():
        raise UserError(f"--batch_size {args.batch_size}: {args.arch} needs at least 2 images a process")
    torch.manual_seed(args.seed)
    classes, experiment = load_classes(args.classes), Experiment.of(args)

    weights = find_weights(args, experiment.classifier.newest())
    net = build_net(args, weights, len(classes) + 1)

    folder = experiment.labels(args.labels)
    dataset, validation = build_data(args, classes, net)
    scales = deeplab.MSC_SCALES if args.msc else deeplab.MSC_SCALES[:1]

    def criterion(model, image, label, run):
        """image: B x 3 x H x W; label: B x H x W of ids, 255 ignored."""
        loss = deeplab.multi_scale_loss(model, image, label, scales, run.world.sum, args.loss_at)
        return loss, run.world.sum_all({"total": loss})

    data = {
        "class names": fingerprint(list(classes)),
        "masks of --labels": origin(folder) or dataset.fingerprint(),
        "images of --val_list": fingerprint(validation and validation.ids),
        **dataset.corrections(),
    }
    line = f"{args.arch}: {{}}; starts from {weights}"
    arch = None if args.arch == DEEPLAB + args.trunk else args.arch
    following = {"arch": arch, "infer_list": args.val_list if validation else args.train_list}
    place, checks = experiment.segmentation(args.arch), {"masks": dataset.check}
    plan = Plan(place, ("infer_seg.py", following), data, weights, line, checks=checks)
    with Training(args, net, criterion, dataset, plan, validation) as run:
        for _ in run.epochs():
            means = train_one_epoch(run)
            run.finish_epoch(means)


if __name__ == "__main__":
    run_script(main, get_args_parser())
