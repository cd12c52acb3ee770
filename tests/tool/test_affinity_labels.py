"""AffinityNet's labels and sets of pairs against values of the released code and against plain loops."""

import numpy as np
import pytest
import torch
from golden_inputs import load

from tool.affinity_labels import affinity_label, pair_masks, pool_scores


def test_label_and_pair_masks_are_the_released_ones():
    golden = load("affinity_label")
    cropped = golden["cropped"].transpose(2, 0, 1)
    low, high = np.split(cropped, 2)
    label = affinity_label(pool_scores(low), pool_scores(high))
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, golden["label"])
    for name, mask in zip(("bg", "fg", "neg"), pair_masks(label, int(golden["radius"]))):
        assert mask.dtype == np.float32
        np.testing.assert_array_equal(mask, golden[name], err_msg=name)


def test_label_by_hand():
    """Cells: low object; low background and high background; only low background; only high background; canvas."""
    low = np.array([[[0.2, 0.9, 0.9, 0.3, 0.0]], [[0.1, 0.1, 0.1, 0.1, 0.0]], [[0.7, 0.0, 0.0, 0.6, 0.0]]])
    high = np.array([[[0.1, 0.8, 0.1, 0.7, 0.0]], [[0.1, 0.2, 0.9, 0.1, 0.0]], [[0.8, 0.0, 0.0, 0.2, 0.0]]])
    assert affinity_label(low, high).tolist() == [[2, 0, 255, 0, 255]]


def test_scores_of_two_sizes_make_no_label():
    with pytest.raises(ValueError, match="same C x h x w"):
        affinity_label(np.zeros((2, 3, 4)), np.zeros((2, 4, 3)))


def test_pooling_averages_and_pads_with_zeros():
    scores = np.arange(2 * 3 * 5, dtype=np.float64).reshape(2, 3, 5)
    pooled = pool_scores(scores, stride=2)
    assert pooled.shape == (2, 2, 3) and pooled.dtype == np.float32
    assert pooled[0].tolist() == [[(0 + 1 + 5 + 6) / 4, (2 + 3 + 7 + 8) / 4, (4 + 9) / 4], [21 / 4, 25 / 4, 14 / 4]]
    tensor = pool_scores(torch.from_numpy(scores), stride=2)
    assert isinstance(tensor, torch.Tensor) and np.array_equal(tensor.numpy(), pooled)
