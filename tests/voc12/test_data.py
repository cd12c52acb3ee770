"""Data sets: samples that depend on seed, epoch and image alone; masks and scores that are refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from tool.io.files import UserError, read_list
from tool.io.images import open_mask, save_image
from tool.io.scores import write_scores
from voc12.data import SegSet, read_score_pair
from voc12.transforms import SegView


@pytest.fixture
def seg_set(toy):
    ids = read_list(toy / "train.txt")

    def make(batch_size=None, scale=(0.5, 1.5)):
        view = SegView(scale, 48, (0.3, 0.3, 0.3, 0.1))
        return SegSet(toy, ids, toy / "SegmentationClass", 21, view, 0, batch_size)

    return make


def test_a_sample_depends_on_seed_epoch_and_image_alone(seg_set):
    one, other = seg_set()[2, 5], seg_set()[2, 5]
    assert one[0] == other[0] and all(torch.equal(a, b) for a, b in zip(one[1:], other[1:]))
    assert not torch.equal(one[1], seg_set()[3, 5][1])


def test_a_factor_a_batch(seg_set, monkeypatch):
    """With a batch size, images of one batch of the epoch's order have one factor, others another."""
    factors = {}
    monkeypatch.setattr("voc12.transforms.rescale", lambda image, factor, _: factors.setdefault(factor, image))
    dataset = seg_set(batch_size=4)
    order = np.random.default_rng([0, 7]).permutation(12)
    seen = []
    for index in order:
        factors.clear()
        dataset[7, int(index)]
        seen += factors
    assert [len(set(seen[k : k + 4])) for k in (0, 4, 8)] == [1, 1, 1] and len(set(seen)) == 3
    assert all(0.5 <= factor <= 1.5 for factor in seen)


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (None, "no such mask"),
        (Image.new("RGB", (64, 48)), "a mask of mode RGB"),
        (Image.new("L", (64, 48), 21), "holds id 21; ids go from 0 to 20, and 255 is ignored"),
        (Image.new("L", (48, 64)), "64 x 48 pixels, but its mask has 48 x 64"),
    ],
)
def test_masks_that_are_refused(tmp_path, mask, says):
    save_image(tmp_path / "JPEGImages" / "one.jpg", Image.new("RGB", (64, 48)))
    if mask:
        mask.save(tmp_path / "one.png")
    dataset = SegSet(tmp_path, ["one"], tmp_path, 21, SegView(), 0)
    with pytest.raises(UserError, match=says):
        dataset[0, 0]


def test_masks_of_a_folder_are_read_as_ids(tmp_path):
    """A palette of any colours, or grey: the ids count."""
    ids = np.array([[0, 1], [20, 255]], np.uint8)
    picture = Image.fromarray(ids, mode="P")
    picture.putpalette([9] * 768)
    picture.save(tmp_path / "palette.png")
    Image.fromarray(ids).save(tmp_path / "grey.png")
    for name in ("palette", "grey"):
        assert np.array_equal(open_mask(tmp_path / f"{name}.png", 21), ids)


def test_a_class_missing_from_one_alpha_is_zero_there(tmp_path):
    write_scores(tmp_path / "low.npy", {0: np.full((4, 6), 0.4), 7: np.full((4, 6), 0.6)})
    write_scores(tmp_path / "high.npy", {0: np.ones((4, 6))})
    low, high = read_score_pair(tmp_path / "low.npy", tmp_path / "high.npy", (4, 6))
    assert low.shape == high.shape == (2, 4, 6) and high[1].max() == 0 and low[1].min() == np.float32(0.6)
    with pytest.raises(UserError, match=r"low\.npy: scores of 6 x 4 pixels for an image of 5 x 4"):
        read_score_pair(tmp_path / "low.npy", tmp_path / "high.npy", (4, 5))
