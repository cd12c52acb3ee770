"""Pairs of cells and their affinities against plain loops and the gathering form."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.affinity import AffinityNet, affinity_loss
from tests.bench.reference import gathered_pair_affinity
from tool import pairs
from tool.affinity_labels import pair_masks
from tool.pairs import fit_radius, offsets, pair_affinity, window

SIDES = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]


def pairs_by_hand(height, width, radius):
    """[[(anchor y, anchor x, partner y, partner x) of every anchor] of every offset], from the text of the method."""
    if min(height, width) < 2 * radius + 1:
        radius = (min(height, width) - 1) // 2
    reach = max(radius - 1, 0)
    table = []
    for dy in range(radius):
        for dx in range(-radius, radius + 1):
            if (dy > 0 or dx > 0) and math.hypot(dy, dx) < radius:
                table.append(
                    [(y, x, y + dy, x + dx) for y in range(height - reach) for x in range(reach, width - reach)]
                )
    return table


def test_there_are_34_offsets_within_radius_5_and_each_has_one_direction():
    moves = offsets(5)
    assert len(moves) == len(set(moves)) == 34
    both = set(moves) | {(-dy, -dx) for dy, dx in moves}
    everything = {(y, x) for y in range(-9, 10) for x in range(-9, 10) if 0 < y * y + x * x < 25}
    assert both == everything
    assert offsets(0) == offsets(1) == []
    assert offsets(2) == [(0, 1), (1, -1), (1, 0), (1, 1)]


@pytest.mark.parametrize("side", SIDES)
def test_small_maps_use_the_radius_that_fits(side):
    expected = 5 if side >= 11 else (side - 1) // 2
    assert fit_radius(side, 40) == fit_radius(40, side) == expected
    assert fit_radius(side, 40, expected) == expected  # so it may be asked twice


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("flip", [False, True])
def test_pairs_are_those_of_a_loop_over_cells(side, flip):
    height, width = (14, side) if flip else (side, 14)
    features = torch.randn(2, 3, height, width)
    table = pairs_by_hand(height, width, 5)
    ours = pair_affinity(features, 5)
    cells = len(table[0]) if table else height * width
    assert ours.shape == (2, len(table), cells)
    for k, row in enumerate(table):
        for n, (y, x, v, u) in enumerate(row):
            distance = (features[:, :, y, x] - features[:, :, v, u]).abs().mean(1)
            torch.testing.assert_close(ours[:, k, n], torch.exp(-distance))


def test_windows_are_views_that_stay_on_the_map():
    maps = torch.arange(12 * 13).view(12, 13)
    for move in [(0, 0), *offsets(5)]:
        view = window(maps, move, 5)
        assert view.shape == (8, 5) and view.data_ptr() >= maps.data_ptr()
        assert view[0, 0] == move[0] * 13 + 4 + move[1]


@pytest.mark.parametrize("block", [1, 300, 2**19])
@pytest.mark.parametrize("size", [(11, 11), (12, 17), (6, 9), (3, 8)])
def test_gradients_equal_those_of_the_gathering_form(monkeypatch, block, size):
    monkeypatch.setattr(pairs, "CPU_BLOCK", block)  # one row, a few rows, the whole image a part
    torch.manual_seed(0)
    features = torch.randn(3, 7, *size)
    features[:, :, 0] = features[:, :, 1]  # equal partners: their gradient is 0 there and here
    ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
    a, b = pair_affinity(ours, 5), gathered_pair_affinity(theirs, 5)
    torch.testing.assert_close(a, b)
    weight = torch.randn_like(a)
    (a * weight).sum().backward()
    (b * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert (ours.grad.abs().sum() > 0) == bool(offsets(fit_radius(*size)))


@pytest.mark.parametrize("radius", [0, 1, 2, 3])
def test_gradcheck_in_double(radius):
    torch.manual_seed(1)
    features = torch.randn(1, 2, 7, 8, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pair_affinity(x, radius), features)


def test_memory_format_of_the_features_changes_nothing():
    features = torch.randn(2, 6, 12, 13)
    strided = torch.randn(2, 6, 12, 26)[..., ::2].copy_(features)
    expected = pair_affinity(features)
    torch.testing.assert_close(pair_affinity(features.contiguous(memory_format=torch.channels_last)), expected)
    torch.testing.assert_close(pair_affinity(strided), expected)


def test_features_alone_are_kept_for_backward():
    kept = []
    features = torch.randn(2, 6, 12, 13, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        affinity = pair_affinity(features)
    assert sorted(kept) == sorted([features.numel(), affinity.numel()])


def test_under_autocast_pairs_are_float32_and_train():
    net = AffinityNet(1 / 16).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = net.features(torch.randn(2, 3, 40, 40))
        affinity = pair_affinity(features)
        assert features.dtype == torch.bfloat16
        assert affinity.dtype == torch.float32 and affinity.shape == (2, 4, 4 * 3)
        affinity_loss(affinity, *(torch.ones_like(affinity) for _ in range(3)))["total"].backward()
    gradients = [p.grad for p in net.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)


def test_half_precision_features_are_compared_in_float32():
    features = (100 + torch.randn(1, 4, 12, 12)).bfloat16()
    torch.testing.assert_close(pair_affinity(features), pair_affinity(features.float()), rtol=0, atol=0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_pairs_are_the_same_in_every_mode(mode):
    features = torch.randn(3, 6, 12, 13)
    expected = gathered_pair_affinity(features)
    with mode():
        affinity = pair_affinity(features.clone().requires_grad_())
    torch.testing.assert_close(affinity.detach(), expected)
    assert affinity.requires_grad == (mode is torch.enable_grad)


def test_an_empty_batch_has_no_pairs():
    assert pair_affinity(torch.zeros(0, 6, 12, 13)).shape == (0, 34, 8 * 5)


def test_the_pair_step_gives_torch_its_threads_back():
    torch.set_num_threads(2)
    features = torch.randn(3, 6, 12, 13, requires_grad=True)
    pair_affinity(features).sum().backward()
    assert torch.get_num_threads() == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_gives_the_same_pairs_and_gradients():
    ours = torch.randn(2, 7, 12, 17, requires_grad=True)
    theirs = ours.detach().cuda().requires_grad_()
    a, b = pair_affinity(ours), pair_affinity(theirs)
    torch.testing.assert_close(a, b.cpu())
    (a**2).sum().backward()
    (b**2).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad.cpu())


@pytest.mark.parametrize("size", [(1, 1), (8, 200), (9, 17), (33, 90), (95, 97), (88, 88)])
def test_any_image_size_gives_the_pairs_of_its_map(size):
    net = AffinityNet(1 / 16).eval()
    height, width = (-(-n // 8) for n in size)
    with torch.no_grad():
        affinity = net(torch.randn(2, 3, *size))
    table = pairs_by_hand(height, width, 5)
    assert affinity.shape == (2, len(table), len(table[0]) if table else height * width)
    assert ((affinity >= 0) & (affinity <= 1)).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 13), st.integers(1, 13), st.integers(0, 6), st.integers(0, 2**32 - 1))
def test_pair_masks_are_those_of_a_loop_over_cells(height, width, radius, seed):
    label = np.random.default_rng(seed).choice(np.array([0, 0, 1, 2, 255], np.uint8), (height, width))
    bg, fg, neg = pair_masks(label, radius)
    table = pairs_by_hand(height, width, radius)
    assert bg.shape == fg.shape == neg.shape == (len(table), len(table[0]) if table else height * width)
    for k, row in enumerate(table):
        for n, (y, x, v, u) in enumerate(row):
            a, b = label[y, x], label[v, u]
            valid = a != 255 and b != 255
            expected = (valid and a == b == 0, valid and a == b != 0, valid and a != b)
            assert (bg[k, n], fg[k, n], neg[k, n]) == expected
