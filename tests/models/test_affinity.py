"""AffinityNet, its pairs and its labels against values of the released code and against plain loops over pairs."""

import math

import numpy as np
import pytest
import torch
from golden_inputs import golden_image, golden_state, load, state_shapes
from hypothesis import given, settings
from hypothesis import strategies as st

from models.affinity import AffinityNet, affinity_loss
from models.resnet38d import ResNet38d, count_parameters
from tests.bench.reference import gathered_pair_affinity
from tool import pairs
from tool.affinity_labels import affinity_label, pair_masks, pool_scores
from tool.pairs import fit_radius, offsets, pair_affinity, window
from tool.random_walk import sparse_affinity
from tool.threads import spread

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


@pytest.fixture(scope="module")
def released():
    net = AffinityNet()
    net.load_released_state(golden_state(state_shapes("affinity")))
    return net.eval()


def test_state_is_the_released_one(released):
    ours = [(k, tuple(v.shape)) for k, v in released.released_state().items()]
    assert ours == list(state_shapes("affinity").items())
    assert len(ours) == 232
    assert count_parameters(released) == 106_484_032


def test_affinities_and_their_matrix_are_the_released_ones(released):
    golden = load("affinity")
    image = golden_image(golden["shape"], float(golden["phase"]))
    with torch.no_grad():
        affinities = released(image)
    np.testing.assert_allclose(affinities.numpy(), golden["aff"], rtol=1e-4)
    height, width = (-(-n // 8) for n in image.shape[2:])
    dense = sparse_affinity(affinities[0], height, width, 5).to_dense()
    np.testing.assert_allclose(dense.sum(1).numpy(), golden["dense_row_sum"], rtol=1e-4)
    assert dense.trace().item() == float(golden["dense_trace"])


def test_dropout_and_layers_of_the_trunk():
    net = AffinityNet(1 / 16)
    b6, b7 = net.trunk.b6, net.trunk.b7
    assert (b6.dropout_2b1.p, b6.dropout_2b2.p, b7.dropout_2b1.p, b7.dropout_2b2.p) == (0.3, 0.3, 0.5, 0.5)
    assert [getattr(net, f).weight.shape[0] for f in ("f8_3", "f8_4", "f8_5", "f9")] == [64, 128, 256, 448]
    assert net.features(torch.zeros(1, 3, 17, 24)).shape == (1, 448, 3, 3)


def test_it_stands_on_any_trunk_or_on_one_of_a_width():
    trunk = ResNet38d(1 / 8)
    assert AffinityNet(trunk).trunk is trunk
    shapes = [p.shape for p in AffinityNet(trunk).parameters()]
    for same in (AffinityNet(width=1 / 8), AffinityNet(1 / 8), AffinityNet(None, 1 / 8)):
        assert [p.shape for p in same.parameters()] == shapes


def test_freezing_leaves_the_f_layers_at_their_own_rate():
    net = AffinityNet(1 / 16).freeze()
    groups = {g["name"]: g for g in net.param_groups(0.01, 5e-4, scratch_lr_mult=10)}
    assert groups["scratch weight"]["lr"] == pytest.approx(0.1)
    scratch = {id(p) for p in groups["scratch weight"]["params"]}
    assert scratch == {id(getattr(net, f).weight) for f in ("f8_3", "f8_4", "f8_5", "f9")}


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


def test_an_error_in_a_thread_is_raised():
    def work(item):
        if item == 2:
            raise RuntimeError("third")

    torch.set_num_threads(2)
    with pytest.raises(RuntimeError, match="third"):
        spread(work, [0, 1, 2, 3])
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


def test_loss_by_hand():
    """Two images; the mean runs over the pairs of both, 3 of background, 1 of one class, 2 of different ones."""
    affinity = torch.tensor([[[0.5, 0.9, 0.2]], [[0.8, 0.4, 1.0]]])
    bg = torch.tensor([[[1.0, 1, 0]], [[1, 0, 0]]])
    fg = torch.tensor([[[0.0, 0, 0]], [[0, 0, 1]]])
    neg = torch.tensor([[[0.0, 0, 1]], [[0, 1, 0]]])
    terms = affinity_loss(affinity, bg, fg, neg)
    e = 1e-5
    expected_bg = -(math.log(0.5 + e) + math.log(0.9 + e) + math.log(0.8 + e)) / (3 + e)
    expected_fg = -math.log(1 + e) / (1 + e)
    expected_neg = -(math.log(0.8 + e) + math.log(0.6 + e)) / (2 + e)
    assert terms["bg"].item() == pytest.approx(expected_bg, rel=1e-5)
    assert terms["fg"].item() == pytest.approx(expected_fg, abs=1e-6)
    assert terms["neg"].item() == pytest.approx(expected_neg, rel=1e-5)
    total = expected_bg / 4 + expected_fg / 4 + expected_neg / 2
    assert terms["total"].item() == pytest.approx(total, rel=1e-5)


def test_loss_of_different_cells_of_equal_features_is_finite():
    affinity = torch.ones(1, 1, 2, requires_grad=True)
    none, all_ = torch.zeros(1, 1, 2), torch.ones(1, 1, 2)
    terms = affinity_loss(affinity, none, none, all_)
    assert terms["neg"].item() == pytest.approx(-math.log(1e-5), rel=1e-2)
    terms["total"].backward()
    assert torch.isfinite(affinity.grad).all()


def test_loss_without_any_pair_is_zero():
    none = torch.zeros(2, 0, 9)
    for affinity in (none, torch.rand(2, 34, 9)):
        masks = [torch.zeros_like(affinity)] * 3
        assert {k: v.item() for k, v in affinity_loss(affinity, *masks).items()} == dict.fromkeys(
            ("total", "bg", "fg", "neg"), 0.0
        )


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
