"""Stage 1: train the classifier from image labels only (AEFT, paper section 3).

reads   --voc12_root (JPEGImages, Annotations), --train_list, --val_list, start weights
writes  experiment/NAME/ckpt/{epoch:03d}net_main.pth (weights), ckpt/resume.pth (what --resume needs),
        experiment/NAME/log.txt, log.jsonl (one line an epoch), settings.json (defaults of later stages)
        python train.py --name N --model aeft_gpp

Epochs before --T train classification alone with --batch_size; from then on every batch has --batch_size_triplet
images, each is erased where it is most active (models/triplet.py: erase), pulled towards its erased copy (attract) and
pushed from an image without a common class (repel).
"""

from functools import partial

import torch

from engine import flags
from engine.distributed import warn
from engine.experiment import Experiment
from engine.log import watch_loss
from engine.recipes import LIGHT
from engine.training import Phase, Plan, Training, Validation, train_one_epoch, training_ids
from models.checkpoint import IMAGENET_WEIGHTS, start_weights
from models.classifiers import MODELS
from models.triplet import ATTRACT, METRICS, TripletErasing
from models.trunks import make_trunk
from tool.cli import fraction, natural, nonnegative, positive_int, run_script
from tool.io.files import UserError, fingerprint
from voc12.classes import load_classes
from voc12.data import TrainSet
from voc12.labels import any_negative, describe_negatives, load_labels, load_training_labels
from voc12.paths import masked_ids
from voc12.transforms import TrainView, look_of
from voc12.validation import cam_sweep


def get_args_parser():
    parser = flags.Parser("train.py", "AEFT stage 1: train the classifier from image labels.", begins=True)
    flags.add_common(parser)
    flags.add_data(parser)
    parser.add_list("--val_list", "voc12/train.txt", "val", "list with masks for the threshold sweep, or none")
    add = parser.data
    add("--resize", type=positive_int, nargs=2, default=[256, 512], metavar=("MIN", "MAX"), help="long side, pixels")
    add("--jitter_p", type=fraction, default=0.8, help="probability of colour jitter")
    add = parser.network
    add("--model", remembered=str, type=str, default="aeft_gpp", choices=MODELS, help="network to train")
    text = "start weights: a file (.params, .pth, .safetensors), timm to let it fetch its own, or none; auto: "
    text += f"{IMAGENET_WEIGHTS} for resnet38d, the packaged ones of tf_efficientnet_lite0, 1 and 2, timm for others"
    add("--pretrained", role=flags.CONTENT, type=str, default="auto", help=text)
    flags.add_pool(parser)
    flags.add_training(parser, epochs=40, crop_size=320, jitter=[0.4, 0.4, 0.4, 0.1], scratch_lr_mult=1.0)
    add = parser.schedule
    add("--T", type=natural, default=18, help="first epoch (from 0) with the triplet")
    add(
        "--batch_size_triplet",
        type=positive_int,
        default=flags.AtMost(32),
        help="images a step, over all processes, from T on",
    )
    add = parser.method
    text = (
        "soft: the paper's; rigid: erased images are classified with the labels of the whole; none: nothing is erased"
    )
    add("--attract", type=str, default="soft", choices=ATTRACT, help=text)
    add("--repel", action=flags.SWITCH, default=True, help="push images away from those without a common class")
    add("--metric", type=str, default="gpp", choices=METRICS, help="maps that embeddings are taken from")
    add("--cls_batch", type=positive_int, default=8, help="images of a batch that the classification loss sees")
    text = "activations: erased from HIGH, not the object below LOW"
    add("--TH", type=fraction, nargs=2, default=[0.6, 0.2], metavar=("HIGH", "LOW"), help=text)
    add("--M", type=nonnegative, default=0.5, help="margin of repel, a squared distance")
    names = ("CLS", "ATTRACT", "REPEL")
    add("--W", type=nonnegative, nargs=3, default=[1.0, 0.2, 0.15], metavar=names, help="weights of the three terms")
    parser.add_other(LIGHT)
    return parser


def check_args(args):
    """Contradictions that argparse cannot see."""
    if args.TH[1] >= args.TH[0]:
        raise UserError(f"--TH {args.TH[0]} {args.TH[1]}: HIGH must be above LOW")
    if args.attract == "rigid" and args.T >= args.epochs:
        raise UserError(f"--attract rigid --T {args.T}: nothing is erased in {args.epochs} epochs")


def build_data(args, classes, net):
    """The training set, and the Validation, None without --val_list."""
    ids = training_ids(args)
    val_ids = masked_ids(args.val_list, args.voc12_root, required=True)
    labels = load_training_labels(ids, args.train_list, args.voc12_root, classes, args.cls_labels)
    val_labels = load_labels(val_ids, args.voc12_root, classes, args.cls_labels) if val_ids else None
    if args.repel and args.T < args.epochs and not any_negative(labels.matrix):
        warn(
            f"{args.train_list}: any two images share a class, so none has a negative and the repel term "
            "stays 0; more classes, or images without the common one, would change that"
        )
    view = TrainView(args.resize, args.crop_size, args.jitter, args.jitter_p, look_of(net.trunk))
    dataset = TrainSet(args.voc12_root, ids, labels, view, args.seed)
    if val_ids is None:
        return dataset, None
    data = {"voc12_root": args.voc12_root, "labels": val_labels, "num_workers": args.num_workers}
    text = "CAM mIoU {miou:.2f} ({miou_present:.2f} present) at {threshold:.2f}"
    return dataset, Validation(partial(cam_sweep, **data), val_ids, "CAM mIoU", text, first=args.T - 1)  # as released


def main(args):
    check_args(args)
    torch.manual_seed(args.seed)
    classes = load_classes(args.classes)

    weights = start_weights(args.pretrained, args.trunk, released=[IMAGENET_WEIGHTS])
    trunk = make_trunk(args.trunk, args.width, args.output_stride, fetch=weights == "timm")
    net = MODELS[args.model](trunk, len(classes), args.pool)
    net.start(weights, args.dropout, args.checkpoint_activations)
    dataset, validation = build_data(args, classes, net)

    terms = {"attract": args.attract, "repel": args.repel, "metric": args.metric}
    losses = TripletErasing(*args.TH, margin=args.M, weights=args.W, cls_batch=args.cls_batch, **terms)

    def criterion(model, image, label, run):
        """image: B x 3 x H x W; label: B x C of 0 and 1, of this process; the losses are of all of them."""
        terms = losses(model, image, label, run.phase.erase, run.generator(), run.gather)
        return terms["total"], terms

    data = {
        "image labels": fingerprint(dataset.labels.matrix.tobytes()),
        "class names": fingerprint(list(classes)),
        "images of --val_list": fingerprint(validation and validation.ids),
    }
    line = f"{args.model}: {{}}, {len(classes)} classes{describe_negatives(dataset.labels)}"
    learning = watch_loss(args, dataset.labels.matrix)
    warm_up = Phase("warm-up", 0, min(args.T, args.epochs), args.batch_size)
    triplet = Phase("triplet", args.T, args.epochs, args.batch_size_triplet, erase=True)
    # released: planned as if every batch had the warm-up's size, so the rate ends at about 0.45 of its start; where
    # batches become smaller there are more steps than that, and the schedule does not end before them (Training)
    planned = len(dataset) // args.batch_size * args.epochs
    following = "infer.py", {"load_epo": "{last}", "dict": True, "crf": True, "infer_list": args.train_list}
    place = Experiment.of(args).classifier
    plan = Plan(place, following, data, weights, line, [warm_up, triplet], planned, learning=learning)
    with Training(args, net, criterion, dataset, plan, validation) as run:
        for _ in run.epochs():
            means = train_one_epoch(run)  # engine/training.py: train_step has the backward pass
            run.finish_epoch(means)


if __name__ == "__main__":
    run_script(main, get_args_parser())
