"""Gated pyramid pooling and the poolings it is compared with, by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_inputs import state_shapes
from torch import nn

from models.aeft import AEFTNet
from models.gpp import POOLS, Gate, GatedPyramidPooling, class_logits, make_pooling
from models.resnet38d import ResNet38d
from tool.io.files import UserError


def gate_reference(gate, x, y):
    """The equation of the paper, pixel by pixel."""
    a = torch.sigmoid(F.conv2d(torch.cat([x.clamp(min=0), y.clamp(min=0)], 1), gate.att_p[0].weight, padding=1))
    b = torch.sigmoid(F.conv2d(torch.cat([(-x).clamp(min=0), (-y).clamp(min=0)], 1), gate.att_n[0].weight, padding=1))
    out = torch.zeros_like(x)
    for n, c, i, j in np.ndindex(*x.shape):
        positive = max(x[n, c, i, j], 0) * a[n, 0, i, j] + max(y[n, c, i, j], 0) * a[n, 1, i, j]
        negative = max(-x[n, c, i, j], 0) * b[n, 0, i, j] + max(-y[n, c, i, j], 0) * b[n, 1, i, j]
        out[n, c, i, j] = positive / 2 - negative / 2
    return out


def test_gate_equation():
    gate, x, y = Gate(3), torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    with torch.no_grad():
        torch.testing.assert_close(gate(x, y), gate_reference(gate, x, y))


def test_gpp_of_a_constant_map_with_half_open_gates():
    """With zero weights every gate is sigmoid(0) = 1/2, so G(x, y) = (x + y)/4: c/2, then 3c/8, then 11c/32."""
    gpp = GatedPyramidPooling(2)
    nn.init.zeros_(gpp.gconv1.att_p[0].weight)
    for parameter in gpp.parameters():
        nn.init.zeros_(parameter)
    for c in (4.0, -4.0):
        out = gpp(torch.full((1, 2, 16, 16), c))
        torch.testing.assert_close(out, torch.full((1, 2, 16, 16), c * 11 / 32))


def test_class_logits_by_hand():
    cam = torch.tensor([[[[1.0, -2.0], [3.0, 0.0]]]])
    gpp = torch.tensor([[[[2.0, -1.0], [-1.0, 5.0]]]])
    assert class_logits(cam, gpp).item() == pytest.approx((1 * 2) / 4 - (2 * 1) / 4)


def half(columns):
    """1 x 1 x 16 x 16, every row the same: 0, these values in columns 4 to 11, then 8."""
    return torch.tensor([0.0] * 4 + columns + [8.0] * 4).expand(1, 1, 16, 16)


STEP = half([0.0] * 4 + [8.0] * 4)  # a class map: nothing on the left, 8 on the right


PYRAMID = {  # P_k of it: cells of 16 / k pixels, linear between their centres
    2: half([0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5]),
    4: half([0.0, 0.0, 1.0, 3.0, 5.0, 7.0, 8.0, 8.0]),
    8: half([0.0, 0.0, 0.0, 2.0, 6.0, 8.0, 8.0, 8.0]),
    16: STEP,
}


def pooling(pool):
    """The module with gates that are half open everywhere: G(x, y) = (x + y)/4."""
    module = make_pooling(pool, 1)
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


@pytest.mark.parametrize("pool", POOLS)
def test_every_pooling_by_hand(pool):
    expected = {str(k): maps for k, maps in PYRAMID.items()} | {
        "gap": STEP,
        "avg": sum(PYRAMID.values()) / 4,
        "gpp": PYRAMID[2] / 64 + PYRAMID[4] / 64 + PYRAMID[8] / 16 + PYRAMID[16] / 4,
        "gpp_inverse": PYRAMID[16] / 64 + PYRAMID[8] / 64 + PYRAMID[4] / 16 + PYRAMID[2] / 4,
    }
    torch.testing.assert_close(pooling(pool)(STEP), expected[pool])
    torch.testing.assert_close(pooling(pool)(-STEP), -expected[pool])


class MapsGiven(AEFTNet):
    """A classifier whose class maps are given instead of an image."""

    def class_maps(self, cam):
        return cam


@pytest.mark.parametrize(
    ("pool", "logit"),
    [
        ("gap", 4.0),  # half of the map is 8
        ("2", 8 * (4.5 + 5.5 + 6.5 + 7.5 + 4 * 8) / 16),  # mean of cam P_2
        ("16", 8 * 8 / 2),
        ("avg", 8 * (24 + 28 + 30 + 32 + 4 * 32) / 4 / 16),
    ],
)
def test_logits_of_poolings_by_hand(pool, logit):
    net = MapsGiven(ResNet38d(1 / 16), 1, pool)
    cam, logits, gpp = net(STEP)
    assert cam is STEP and gpp.shape == STEP.shape and logits.item() == pytest.approx(logit)
    assert net(-STEP)[1].item() == pytest.approx(-logit)


@pytest.mark.parametrize("pool", POOLS)
def test_pooling_is_float32_under_autocast_too(pool):
    """Of class maps that came in bfloat16: the gates' convolutions are not rounded a second time."""
    torch.manual_seed(0)
    net, cam = MapsGiven(ResNet38d(1 / 16), 5, pool), torch.randn(2, 5, 20, 20).bfloat16()
    expected = net(cam.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = net(cam)
    assert all(out.dtype == torch.float32 and torch.equal(out, full) for out, full in zip(mixed, expected))


def test_new_layers_start_as_released():
    """Both 1 x 1 convolutions: uniform, Xavier's bound sqrt(6 / (in + out))."""
    net = AEFTNet(ResNet38d(1 / 16))
    for layer in (net.fc8, net.fc9):
        bound = math.sqrt(6 / (layer.in_channels + layer.out_channels))
        assert 0.99 * bound < layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)


@pytest.mark.parametrize("pool", POOLS)
def test_poolings_without_gates_have_no_entries(pool):
    names = set(AEFTNet(ResNet38d(1 / 16), pool=pool).released_state())
    everything = set(state_shapes("aeft_gpp"))
    assert names == {k for k in everything if pool.startswith("gpp") or not k.startswith("gconv")}


@pytest.mark.parametrize("pool", ["3", "32", "", "max"])
def test_other_poolings_are_refused(pool):
    with pytest.raises(UserError, match="there are gap 2 4 8 16 avg gpp_inverse gpp"):
        AEFTNet(ResNet38d(1 / 16), pool=pool)
