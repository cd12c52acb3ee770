"""Recipes: defaults of flags by --recipe, and those of another trunk than the paper's, or of another data set."""

from functools import partial
from typing import NamedTuple

from models.checkpoint import PSA_WEIGHTS
from models.trunks import finer_stride
from tool.io.files import read_list
from tool.io.images import BACKGROUND, IGNORE
from tool.segmentation import VIEWS


class AtMost(int):
    """A default number of images a step, lowered where there are fewer (engine/training.py: training_ids)."""


class Unless(int):
    """A default that holds unless what trained the network says another (engine/flags.py: as_trained)."""


OURS = {"pretrained": "auto", "batch_size": AtMost(10), "lr": 1e-3, "momentum": 0.9, "wt_dec": 5e-4, "msc": True}
OURS |= {"random_scale": [0.5, 1.5], "scale_by_batch": False, "jitter": [0.3, 0.3, 0.3, 0.1], "padding": IGNORE}
OURS |= {"loss_at": "cells", "dropout_rates": [0.2, 0.2], "train_b2": False}

# As MCTformer's segmentation is released: weight decay lands in momentum's place, and where a crop reaches beyond its
# image, background is taught.
MCTFORMER = {"pretrained": PSA_WEIGHTS, "batch_size": AtMost(4), "lr": 7e-4, "momentum": 1e-5, "wt_dec": 0.0}
MCTFORMER |= {"random_scale": [0.7, 1.3], "scale_by_batch": True, "jitter": [0.0] * 4, "padding": BACKGROUND}
MCTFORMER |= {"msc": False, "loss_at": "pixels", "dropout_rates": [0.3, 0.5], "train_b2": True}

RECIPES = {"default": OURS, "mctformer": MCTFORMER}
TEST_RECIPES = {"default": VIEWS, "mctformer": {"scales": [0.5, 0.75, 1.0, 1.25, 1.5], "mirror": False, "merge": "max"}}


# ---------------------------------------------------------------- another trunk


class Following(NamedTuple):
    """A default that follows from other arguments. text: how, for --help; of: function of the arguments."""

    text: str
    of: object

    def __str__(self):
        return self.text


def epochs_of(args, steps, least, most):
    each = max(1, len(read_list(args.train_list)) // args.batch_size)
    return min(most, max(least, round(steps / each)))


def epochs(steps, least, most):
    """Epochs that follow from the list: about so many steps, at least and at most so many epochs."""
    of = partial(epochs_of, steps=steps, least=least, most=most)
    return Following(f"as many as make {steps} steps, {least} to {most}", of)


# SGD at the released rates does not converge there. These do on VOC's and MSRC's photographs with EfficientNet-Lite0.
LIGHT = {"output_stride": Following("16 where it can", lambda args: finer_stride(args.trunk))}
LIGHT |= {"epochs": epochs(1200, 4, 40), "T": Following("half of the epochs", lambda args: args.epochs // 2)}
LIGHT |= {"batch_size_triplet": AtMost(8), "optimizer": "adamw", "lr": 2e-4, "scratch_lr_mult": 10.0, "momentum": 0.9}
LIGHT |= {"crop_size": 288, "W": [1.0, 1.0, 0.03], "M": 0.1}
LIGHT_AFF = {"epochs": epochs(600, 2, 8), "crop_size": 320, "momentum": 0.9}
LIGHT_SEG = {"output_stride": LIGHT["output_stride"], "batch_size": AtMost(8), "lr": 3e-3, "crop_size": 288}
LIGHT_SEG |= {"epochs": epochs(2400, 8, 40), "random_scale": [0.75, 1.5], "msc": False}

# What was best on two sets of photographs (docs/photographs.md): powers 3 and 4 of the CRF on VOC's, 2 to 4 on MSRC's,
# larger ones grow labels beyond the objects; colours 5 wide. Widths in pixels are for photographs of VOC's size.
OTHERS = {"high": 12, "dup": 4, "alphas": [2, 4, 12], "srgb": 5, "sxy_side": 500}
