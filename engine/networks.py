"""Trained networks, as a stage's arguments name them."""

from pathlib import Path

from engine.experiment import Experiment
from models.checkpoint import find_epoch
from models.deeplab import DEEPLAB
from models.trained import load_segmentation
from tool.io.files import UserError, file_hash


def load_segmentation_net(args, num_labels):
    """The network with the weights of --weights or best.pth -> (network, path, settings that make its labels).

    Sets args.arch where it was not given.
    """
    args.arch = args.arch or DEEPLAB + args.trunk
    weights = Path(args.weights or Experiment.of(args).segmentation(args.arch).best)
    if not weights.is_file():
        hint = "" if args.weights else f"; run train_seg.py --name {args.name} --arch {args.arch}"
        raise UserError(f"{weights}: no such checkpoint{hint}")
    net, network = load_segmentation(args.arch, vars(args), weights, num_labels)
    return net, weights, network | {"weights": file_hash(weights)}


def find_classifier(args):
    """Path of the weights; None where stored maps alone are used. UserError says which epochs there are."""
    given = (args.load_epo is not None) + (args.weights is not None)
    if not given and not args.dict and args.labels == "given":
        return None
    if given != 1:
        raise UserError("give one of --load_epo EPOCH and --weights FILE")
    if args.weights:
        return Path(args.weights)
    return find_epoch(Experiment.of(args).classifier.folder, args.load_epo)
