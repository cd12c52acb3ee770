"""Walked scores and the labels made of them."""

import numpy as np
import pytest
import torch
from PIL import Image

from models.affinity import AffinityNet
from tool.pseudo_labels import walk_scores
from voc12.transforms import normalise


@pytest.mark.parametrize("size", [(1, 1), (8, 120), (100, 9), (37, 53)])
def test_the_walk_takes_any_size(size):
    """One-cell-wide maps have no pairs: the walk leaves their scores where they are."""
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    scores = np.random.default_rng(1).random((3, *size), dtype=np.float32)
    walked = walk_scores(AffinityNet(0.0625).eval(), normalise(photo), scores, torch.device("cpu"))
    assert walked.shape == scores.shape and np.isfinite(walked).all()
    assert walked.min() >= 0 and walked.max() <= 1.0001


def test_the_walk_on_a_uniform_image_keeps_uniform_scores():
    """Columns sum to 1 and every affinity is 1, so a constant map stays what it is."""
    photo = Image.new("RGB", (96, 96), (120, 130, 140))
    scores = np.stack([np.full((96, 96), v, np.float32) for v in (0.2, 0.7)])
    walked = walk_scores(AffinityNet(0.0625).eval(), normalise(photo), scores, torch.device("cpu"), beta=1e-6)
    inner = walked[:, 40:56, 40:56]
    np.testing.assert_allclose(inner[1] / inner[0], 3.5, rtol=1e-4)
