"""Trained networks, as a stage's arguments name them."""

from pathlib import Path

from engine.experiment import Experiment, next_command
from models.affinity import AffinityNet
from models.checkpoint import load_trained
from models.trained import load_classifier as trained_classifier
from models.trained import load_segmentation, trained_side
from models.trunks import make_trunk
from tool.io.files import UserError, file_hash, folder_settings


def find_checkpoint(args, best, training):
    """--weights, or best.pth; UserError names the `training` that writes it."""
    weights = Path(args.weights or best)
    if not weights.is_file():
        hint = "" if args.weights else f"; run {training}"
        raise UserError(f"{weights}: no such checkpoint{hint}")
    return weights


def load_classifier(args, num_classes):
    """(network, path of its weights); None twice where stored maps alone are used. UserError names the epochs there."""
    given = (args.load_epo is not None) + (args.weights is not None)
    if not given and (args.mean_of or not args.dict) and args.labels == "given":
        return None, None
    if given != 1 or args.mean_of:
        raise UserError("give one of --load_epo EPOCH, --weights FILE and --mean_of NAME..., this with given labels")
    weights = Path(args.weights) if args.weights else Experiment.of(args).classifier.find(args.load_epo)
    if args.as_trained:
        args.max_side = trained_side(weights)
    return trained_classifier(vars(args), weights, num_classes), weights


def load_affinity_net(args):
    """(network, path): the weights of --weights or best.pth."""
    training = next_command("train_aff.py", args, **dict(zip(("low", "high", "dup"), args.powers)))
    weights = find_checkpoint(args, Experiment.of(args).affinity(args.powers).best, training)
    return affinity_net(args, weights), weights


def affinity_net(args, weights):
    """The network as its run.json says; `args` have its trunk from then on, which results are recorded with."""
    kept = folder_settings(weights.parent) or {}
    vars(args).update({name: kept[name] for name in ("trunk", "width", "output_stride") if name in kept})
    return load_trained(lambda: AffinityNet(make_trunk(args.trunk, args.width, args.output_stride)), weights)


def load_segmentation_net(args, num_labels):
    """The network with the weights of --weights or best.pth -> (network, path, settings that make its labels)."""
    best = Experiment.of(args).segmentation(args.arch).best
    weights = find_checkpoint(args, best, next_command("train_seg.py", args, arch=args.arch, labels="LABELS"))
    if args.as_trained:
        args.max_side = trained_side(weights)
    net, network = load_segmentation(args.arch, vars(args), weights, num_labels)
    return net, weights, network | {"weights": file_hash(weights)}
