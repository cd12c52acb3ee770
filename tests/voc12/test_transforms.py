"""Views: photograph, mask and scores are cut, mirrored and padded alike."""

import numpy as np
import torch
from golden_inputs import draw
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tool.io.images import MEAN, STD
from voc12.transforms import AffinityView, Look, SegView, normalise


@given(
    width=st.integers(1, 120),
    height=st.integers(1, 120),
    crop=st.integers(1, 90),
    seed=st.integers(0, 1000),
    jitter=st.sampled_from([0.0, 0.3]),
)
def test_padding_never_becomes_background(width, height, crop, seed, jitter):
    """A white image of class 1: what is not white is padding, has the mean colour, and is ignored."""
    view = SegView((0.5, 1.5), crop, (jitter, 0, 0, 0))
    photo, label = Image.new("RGB", (width, height), "white"), np.ones((height, width), np.uint8)
    x, label = view(photo, label, np.random.default_rng(seed))
    assert x.shape == (3, crop, crop) and label.shape == (crop, crop) and label.dtype == torch.uint8
    assert set(label.unique().tolist()) <= {1, 255}
    assert torch.equal(x.eq(0).all(0), label == 255)


def test_padding_is_background_where_the_recipe_has_it_so():
    x, label = SegView((1, 1), 40, (0, 0, 0, 0), padding=0)(*draw(1, side=32), np.random.default_rng(0))
    assert label[x.eq(0).all(0)].eq(0).all() and x.eq(0).all(0).sum() == 40 * 40 - 32 * 32


def test_photograph_and_mask_are_moved_alike():
    photo, label = draw(3)
    flips = set()
    for seed in range(8):
        x, mask = SegView((0.5, 1.5), 96, (0, 0, 0, 0))(photo, label, np.random.default_rng(seed))
        red = (x[0] * STD[0] + MEAN[0]) - (x[2] * STD[2] + MEAN[2])  # by 160/255 less in the blue rectangle
        inside, outside = (red < -0.35) & (mask != 255), (red > -0.2) & (mask != 255)
        assert (mask[inside] == 2).float().mean() > 0.98 and (mask[outside] == 0).float().mean() > 0.98
        flips.add(bool(mask[:, :48].eq(2).sum() > mask[:, 48:].eq(2).sum()))
    assert flips == {True, False}


def test_normalised_values_are_those_of_the_formula():
    pixels = np.random.default_rng(0).permutation(np.repeat(np.arange(256, dtype=np.uint8), 9)).reshape(24, 32, 3)
    for look in (Look(), Look((0.5, 0.4, 0.3), (0.5, 0.2, 0.1))):
        x = (pixels.astype(np.float32) / 255 - look.mean) / look.std
        assert np.array_equal(normalise(Image.fromarray(pixels), look), x.transpose(2, 0, 1).astype(np.float32))


def test_image_and_scores_are_cut_and_mirrored_together(tmp_path):
    """Scores made from the image's own red channel still match it after the view."""
    pixels = np.zeros((40, 56, 3), np.uint8)
    pixels[:, :28, 0] = 255
    view = AffinityView(crop=48, scale=1.0, jitter=(0, 0, 0, 0))
    red = torch.from_numpy((pixels[None, :, :, 0] / 255).astype(np.float32))
    mirrored = set()
    for seed in range(12):
        x, scores = view(Image.fromarray(pixels), red + 1, np.random.default_rng(seed))
        assert x.shape == (3, 48, 48) and scores.shape == (1, 48, 48)
        inside = scores[0] > 0
        assert inside.sum() == 40 * 48 and (x[:, ~inside] == 0).all()
        assert torch.equal((x[0] > 0) & inside, scores[0] == 2)
        columns = torch.nonzero((scores[0] == 2).any(0)).flatten()
        mirrored.add(bool(columns.min() > 0))
    assert mirrored == {True, False}
