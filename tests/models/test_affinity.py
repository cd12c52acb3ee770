"""AffinityNet and its loss against values of the released code and by hand."""

import math

import numpy as np
import pytest
import torch
from golden_inputs import golden_image, golden_state, load, state_shapes

from models.affinity import AffinityNet, affinity_loss
from models.resnet38d import ResNet38d, count_parameters
from tool.random_walk import sparse_affinity


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
