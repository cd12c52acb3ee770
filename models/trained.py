"""Networks that an experiment has trained: where they lie below its folder, and how they are made anew.

What settings.json and the run.json of the checkpoints say goes into `make_classifier` and `load_segmentation`.
"""

import operator
from pathlib import Path
from typing import NamedTuple

from models.checkpoint import load_trained
from models.classifiers import MODELS
from models.deeplab import make_segmentation_net, network_settings
from models.trunks import make_trunk
from tool.cam import MAX_SIDE
from tool.io.files import UserError, folder_settings, portable, read_record


class Place(NamedTuple):
    """Where a training leaves its checkpoints (file: a name with {} for the epoch), its log, and best.pth, if any."""

    folder: Path
    file: str
    log: str
    best: Path | None = None

    def checkpoint(self, epoch):
        return self.folder / self.file.format(epoch)

    def newest(self):
        """Checkpoints of epochs, the newest first."""
        return sorted(self.folder.glob(self.file.replace("{:03d}", "*").replace("{:02d}", "*")), reverse=True)

    def find(self, epoch):
        """Path of the checkpoint of an epoch; UserError says which epochs there are."""
        path = self.checkpoint(epoch)
        if not path.is_file():
            epochs = " ".join(str(int(other.name[:3])) for other in reversed(self.newest()))
            there = f"epochs there: {epochs}" if epochs else "no epoch is there; run train.py first"
            raise UserError(f"{path}: no such checkpoint; {there}")
        return path


def place_with_best(folder, log):
    return Place(folder, "{:02d}.pth", log, folder / "best.pth")


def classifier_place(experiment):
    """experiment: the folder, as below."""
    return Place(experiment / "ckpt", "{:03d}net_main.pth", "log")


def segmentation_place(experiment, arch):
    folder = portable(experiment / "ckpt_seg" / arch)
    return place_with_best(folder, f"log_seg_{folder.name}")


def load_classifier(settings, weights, num_classes):
    """A classifier with its weights. settings: with model, trunk, width, output_stride and pool."""
    trunk = settings["trunk"], settings["width"], settings["output_stride"]
    if settings["model"] not in MODELS:
        raise UserError(f"{weights}: is of the model {settings['model']!r}, which is none of {', '.join(MODELS)}")
    return load_trained(lambda: MODELS[settings["model"]](make_trunk(*trunk), num_classes, settings["pool"]), weights)


def load_segmentation(arch, settings, weights, num_labels):
    """A segmentation network with its weights -> (network, {"arch", "width", "output_stride"}).

    settings: with trunk, width and output_stride; what the run.json beside the weights has goes before.
    """
    network = network_settings(arch, settings | (folder_settings(weights.parent) or {}))
    return load_trained(lambda: make_segmentation_net(**network, num_labels=num_labels), weights), network


def trained_side(weights):
    """Pixels of the longer side at which training saw photographs, by run.json beside the weights, else MAX_SIDE."""
    record = read_record(Path(weights).parent) or {"settings": {}}
    try:
        sides = record["settings"].get("resize") or [0, (record.get("arguments") or {}).get("side", MAX_SIDE)]
        return operator.index(sides[1])
    except (AttributeError, IndexError, KeyError, TypeError):
        raise UserError(f"{Path(weights).parent}: run.json is damaged; remove it") from None
