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

import torch

from engine import flags
from engine.experiment import Experiment
from engine.jobs import pairwise
from engine.recipes import LIGHT_AFF
from engine.record import origin
from engine.training import Plan, Training, Validation, train_one_epoch, training_ids
from models.affinity import DROPOUT, AffinityNet, affinity_loss
from models.checkpoint import START_WEIGHTS, start_weights
from models.trunks import make_trunk
from tool.cli import positive_int, run_script
from tool.io.files import UserError, fingerprint
from voc12.classes import load_classes
from voc12.data import AffinitySet, WalkSet
from voc12.paths import check_scores, masked_ids
from voc12.transforms import AffinityView, look_of
from voc12.validation import walk_score


def get_args_parser():
    parser = flags.Parser("train_aff.py", "AEFT stage 3: train AffinityNet.")
    flags.add_common(parser)
    flags.add_data(parser, labels=False)
    text = "list with masks and maps on which the best checkpoint is chosen, or none"
    parser.add_list("--val_list", "voc12/train.txt", "masks", text)
    text = f"start weights, or none; auto: the first that is there of {' '.join(START_WEIGHTS)} for resnet38d, else of "
    text += "the experiment's classifier and what train.py takes"
    parser.network("--pretrained", role=flags.CONTENT, type=str, default="auto", help=text)
    flags.add_training(parser, epochs=8, crop_size=448, jitter=[0.3, 0.3, 0.3, 0.1], scratch_lr_mult=10.0)
    flags.add_walk(parser)
    flags.add_widths(parser)
    flags.add_max_side(parser)
    add = parser.schedule
    add("--val_every", type=positive_int, default=500, help="steps between two validations")
    text = "validate after one CRF iteration, as released: about 0.3 s more an image"
    add("--val_crf", action="store_true", help=text)
    text = "what best.pth is: the best walk on the masks of --val_list (released), or the last epoch"
    add("--select", type=str, default="best", choices=["best", "last"], help=text)
    parser.add_other(LIGHT_AFF)
    return parser


def build_data(args, classes, net):
    """The training set, and the Validation, None without."""
    if args.crop_size % net.stride:
        raise UserError(f"--crop_size {args.crop_size}: must be a multiple of {net.stride}, the size of a cell")
    ids = training_ids(args)
    folders = {alpha: Experiment.of(args).crf(alpha) for alpha in (args.low, args.high)}
    if args.on_error == "stop":
        for alpha, folder in folders.items():
            check_scores(ids, folder, args.train_list, f"run infer.py --crf --alphas {alpha}")
    view = AffinityView(args.crop_size, args.scale, args.jitter, look_of(net.trunk), args.max_side)
    dataset = AffinitySet(args.voc12_root, ids, *folders.values(), view, args.seed, len(classes) + 1, net.stride)
    return dataset, build_validation(args, classes, net)


def build_validation(args, classes, net):
    """The walk's mIoU, which chooses best.pth; None where there are no masks, or they are not to be used."""
    ids = masked_ids(args.val_list, args.voc12_root) if args.select == "best" else None
    if ids is None:
        return None
    maps = Experiment.of(args).maps
    check_scores(ids, maps, args.val_list, "run infer.py --dict on that list, or use --select last")
    walks = WalkSet(args.voc12_root, ids, maps, len(classes), args.scale, look_of(net.trunk), args.max_side)
    kernels = pairwise(args)[0] if args.val_crf else None
    score = partial(walk_score, walks=walks, dup=args.dup, num_workers=args.num_workers, kernels=kernels)
    name = f"random walk{' and CRF' if args.val_crf else ''} mIoU"
    return Validation(score, ids, name, "", every=args.val_every, select=True)


def main(args):
    torch.manual_seed(args.seed)
    classes, experiment = load_classes(args.classes), Experiment.of(args)

    own = [] if args.trunk == "resnet38d" else experiment.classifier.newest()
    weights = start_weights(args.pretrained, args.trunk, own)
    trunk = make_trunk(args.trunk, args.width, args.output_stride, DROPOUT, fetch=weights == "timm")
    net = AffinityNet(trunk).start(weights, args.dropout, args.checkpoint_activations)

    dataset, validation = build_data(args, classes, net)

    def criterion(model, image, masks, run):
        """image: B x 3 x H x W; masks: B x 3 x offsets x anchors, pairs of background, of one class, of two classes."""
        terms = affinity_loss(model(image).float(), *masks.unbind(1), over_all=run.world.sum)
        return terms["total"], run.world.sum_all(terms)

    chosen_with = ["best", validation.ids, origin(experiment.maps)] if validation else ["last"]
    data = {
        "class names": fingerprint(list(classes)),
        "choice of best.pth (--select, --val_list, maps)": fingerprint(*chosen_with),
    } | {f"CRF scores of crf/{alpha:02d}": origin(experiment.crf(alpha)) for alpha in (args.low, args.high)}
    following = {name: getattr(args, name) for name in ("low", "high", "dup", "scale", "train_list")}
    place = experiment.affinity(args.powers)
    plan = Plan(place, ("infer_aff.py", following), data, weights, "AffinityNet: {}")
    with Training(args, net, criterion, dataset, plan, validation) as run:
        for _ in run.epochs():
            means = train_one_epoch(run)
            run.finish_epoch(means)


if __name__ == "__main__":
    run_script(main, get_args_parser())
