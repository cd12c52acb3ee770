"""Gated pyramid pooling (GPP): the paper's replacement of global average pooling (paper, section 3.2).

Average pooling rewards a class map for being high everywhere, max pooling for one peak. GPP pools the class maps at
four grid sizes and lets learned gates decide, pixel by pixel, how coarse and fine evidence are combined. What the
paper compares it with is here too: one grid, the mean of all, gates from fine to coarse, plain average pooling.
"""

import torch
import torch.nn.functional as F
from torch import nn

from tool.io.files import UserError

GRIDS = (2, 4, 8, 16)
POOLS = ("gap", *map(str, GRIDS), "avg", "gpp_inverse", "gpp")


def pooled(cam, k):
    """P_k: average pooling to k x k cells, bilinear back to the size of `cam` (B x C x h x w)."""
    return F.interpolate(F.adaptive_avg_pool2d(cam, k), cam.shape[-2:], mode="bilinear", align_corners=False)


class Gate(nn.Module):
    """G(x, y): a gated mean of two maps that never lets positive and negative evidence cancel each other.

    G = (x+ a0 + y+ a1)/2 - (x- b0 + y- b1)/2 with a = sigmoid(conv([x+, y+])), b = sigmoid(conv([x-, y-])).
    x, y: B x C x h x w -> B x C x h x w; a, b: B x 2 x h x w, one weight a pixel for each input.
    """

    def __init__(self, num_classes):
        super().__init__()
        self.att_p = nn.Sequential(nn.Conv2d(2 * num_classes, 2, 3, padding=1, bias=False), nn.Sigmoid())
        self.att_n = nn.Sequential(nn.Conv2d(2 * num_classes, 2, 3, padding=1, bias=False), nn.Sigmoid())

    @staticmethod
    def _weighted(xy, attention):
        a = attention(xy)  # B x 2 x h x w
        x, y = xy.chunk(2, dim=1)
        return (x * a[:, :1] + y * a[:, 1:]) / 2

    def forward(self, x, y):
        xy = torch.cat([x, y], dim=1)
        return self._weighted(F.relu(xy), self.att_p) - self._weighted(F.relu(-xy), self.att_n)


class GatedPyramidPooling(nn.Module):
    """cam: B x C x h x w -> gpp: B x C x h x w, gpp = G3(G2(G1(P2, P4), P8), P16); `grids` gives another order."""

    def __init__(self, num_classes, grids=GRIDS):
        super().__init__()
        self.grids = grids
        self.gconv1 = Gate(num_classes)
        self.gconv2 = Gate(num_classes)
        self.gconv3 = Gate(num_classes)

    def forward(self, cam):
        a, b, c, d = (pooled(cam, k) for k in self.grids)
        return self.gconv3(self.gconv2(self.gconv1(a, b), c), d)


class MeanPyramid(nn.Module):
    """cam: B x C x h x w -> the mean of P_k over `grids`, B x C x h x w; no gates, nothing to learn."""

    def __init__(self, grids=GRIDS):
        super().__init__()
        self.grids = grids

    def forward(self, cam):
        return torch.stack([pooled(cam, k) for k in self.grids]).mean(0)


def make_pooling(pool, num_classes):
    """The module of one of POOLS, which gives gpp of cam; with "gap" that is cam itself."""
    if pool in ("gpp", "gpp_inverse"):  # coarse to fine as in the paper, or fine to coarse
        return GatedPyramidPooling(num_classes, GRIDS if pool == "gpp" else GRIDS[::-1])
    if pool == "gap":
        return nn.Identity()
    if pool not in POOLS:
        raise UserError(f"pool {pool}: there are {' '.join(POOLS)}")
    return MeanPyramid(GRIDS if pool == "avg" else (int(pool),))


def class_logits(cam, gpp):
    """Class scores from both maps (B x C x h x w -> B x C): agreement of positives minus agreement of negatives."""
    return (F.relu(cam) * F.relu(gpp)).mean((2, 3)) - (F.relu(-cam) * F.relu(-gpp)).mean((2, 3))
