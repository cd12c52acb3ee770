"""Recipes of the segmentation network: what --recipe sets the defaults of other flags to."""

from models.checkpoint import PSA_WEIGHTS
from tool.io.images import BACKGROUND, IGNORE
from tool.segmentation import VIEWS

OURS = {"pretrained": "auto", "batch_size": 10, "lr": 1e-3, "momentum": 0.9, "wt_dec": 5e-4, "msc": True}
OURS |= {"random_scale": [0.5, 1.5], "scale_by_batch": False, "jitter": [0.3, 0.3, 0.3, 0.1], "padding": IGNORE}
OURS |= {"loss_at": "cells", "dropout_rates": [0.2, 0.2], "train_b2": False}

# As MCTformer's segmentation is released: weight decay lands in momentum's place, and where a crop reaches beyond its
# image, background is taught.
MCTFORMER = {"pretrained": PSA_WEIGHTS, "batch_size": 4, "lr": 7e-4, "momentum": 1e-5, "wt_dec": 0.0, "msc": False}
MCTFORMER |= {"random_scale": [0.7, 1.3], "scale_by_batch": True, "jitter": [0.0] * 4, "padding": BACKGROUND}
MCTFORMER |= {"loss_at": "pixels", "dropout_rates": [0.3, 0.5], "train_b2": True}

RECIPES = {"default": OURS, "mctformer": MCTFORMER}
TEST_RECIPES = {"default": VIEWS, "mctformer": {"scales": [0.5, 0.75, 1.0, 1.25, 1.5], "mirror": False, "merge": "max"}}
