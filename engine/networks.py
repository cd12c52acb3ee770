"""Trained networks, as a stage's arguments name them."""

from pathlib import Path

from engine.experiment import Experiment
from engine.record import folder_settings
from models.checkpoint import find_epoch, load_weights
from models.deeplab import DEEPLAB, make_segmentation_net, network_settings
from tool.io.files import UserError, file_hash
from tool.threads import one_thread


def load_segmentation_net(args, num_labels):
    """The network with the weights of --weights or best.pth -> (network, path, settings that make its labels).

    Sets args.arch where it was not given.
    """
    args.arch = args.arch or DEEPLAB + args.trunk
    weights = Path(args.weights or Experiment.of(args).segmentation(args.arch).best)
    if not weights.is_file():
        hint = "" if args.weights else f"; run train_seg.py --name {args.name} --arch {args.arch}"
        raise UserError(f"{weights}: no such checkpoint{hint}")
    network = network_settings(args.arch, vars(args) | (folder_settings(weights.parent) or {}))
    with one_thread():  # worker processes are forked later, and a fork does not copy torch's threads
        net = make_segmentation_net(**network, num_labels=num_labels)
        load_weights(net, weights, part="all")
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
