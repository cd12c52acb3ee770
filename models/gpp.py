"""Gated pyramid pooling (GPP): the paper's replacement of global average pooling (paper, section 3.2).

Average pooling rewards a class map for being high everywhere, max pooling for one peak. GPP pools the class maps at
four grid sizes and lets learned gates decide, pixel by pixel, how coarse and fine evidence are combined.
"""

import torch
import torch.nn.functional as F
from torch import nn

GRIDS = (2, 4, 8, 16)


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
    """cam: B x C x h x w -> gpp: B x C x h x w, gpp = G3(G2(G1(P2, P4), P8), P16)."""

    def __init__(self, num_classes):
        super().__init__()
        self.gconv1 = Gate(num_classes)
        self.gconv2 = Gate(num_classes)
        self.gconv3 = Gate(num_classes)

    def forward(self, cam):
        size = cam.shape[-2:]
        p2, p4, p8, p16 = (
            F.interpolate(F.adaptive_avg_pool2d(cam, k), size, mode="bilinear", align_corners=False) for k in GRIDS
        )
        return self.gconv3(self.gconv2(self.gconv1(p2, p4), p8), p16)


def class_logits(cam, gpp):
    """Class scores from both maps (B x C x h x w -> B x C): agreement of positives minus agreement of negatives."""
    return (F.relu(cam) * F.relu(gpp)).mean((2, 3)) - (F.relu(-cam) * F.relu(-gpp)).mean((2, 3))
