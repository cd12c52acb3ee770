"""AffinityNet: how likely two nearby cells of an image show the same class (Ahn and Kwak, CVPR 2018).

On ResNet-38 of width 1 this should have 106,484,032 parameters and 232 state entries.
"""

import torch
import torch.nn.functional as F
from torch import nn

from models.network import TrunkNet
from models.resnet38d import Conv1x1, ResNet38d
from tool.pairs import RADIUS, pair_affinity

FEATURES = (64, 128, 256)  # channels of f8_3, f8_4, f8_5; at any width
EPS = 1e-5
DROPOUT = (0.3, 0.5)  # in b6 and b7 of its ResNet-38; the classifier's has 0.2 in both


class AffinityNet(TrunkNet):
    """image B x 3 x H x W -> affinities B x offsets x anchors in [0, 1], on the trunk's map of cells.

    trunk: see models/trunks.py; without one ResNet38d(width). The f layers give 64, 128, 256 and 448 channels on any.
    A map whose shorter side is under 2 * radius + 1 = 11 cells uses radius (shorter side - 1) // 2; see `fit_radius`.
    """

    def __init__(self, trunk=None, width=1.0):
        if isinstance(trunk, float | int):  # AffinityNet(0.5)
            trunk, width = None, trunk
        trunk = ResNet38d(width, DROPOUT) if trunk is None else trunk
        super().__init__(trunk)
        self.radius, self.stride = RADIUS, trunk.stride
        for name, inputs, outputs in zip(("f8_3", "f8_4", "f8_5"), trunk.level_channels, FEATURES):
            layer = Conv1x1(inputs, outputs)
            nn.init.kaiming_normal_(layer.weight)
            self.add_module(name, layer)
        self.f9 = Conv1x1(sum(FEATURES), sum(FEATURES))
        # the mean over 448 channels makes distances small: with a gain of 4 the first affinities already differ
        nn.init.xavier_uniform_(self.f9.weight, gain=4)

    def features(self, image):
        """image B x 3 x H x W -> B x 448 x h x w, a value a cell of the trunk."""
        level4, level5, out = self.trunk.levels(image)
        levels = [F.elu(self.f8_3(level4)), F.elu(self.f8_4(level5)), F.elu(self.f8_5(out))]
        return F.elu(self.f9(torch.cat(levels, dim=1)))

    def forward(self, image):
        return pair_affinity(self.features(image), self.radius)


def affinity_loss(affinity, bg, fg, neg, over_all=lambda x: x):
    """Loss of affinities (any shape, as all masks; values 0 or 1) -> {"total", "bg", "fg", "neg"}, scalars.

    bg: pairs of background, fg: pairs of one class, neg: pairs of different classes. Each term is the mean over its
    pairs of the whole batch, 0 without any; total = bg / 4 + fg / 4 + neg / 2.
    over_all: with several processes, what sums a tensor over them (World.sum); pairs are counted over all, and what
    comes out is this process's part of each term: their sums are the terms of the global batch.
    """
    same = -torch.log(affinity + EPS)
    different = -torch.log(1 + EPS - affinity)
    masks = [mask.to(same.dtype) for mask in (bg, fg, neg)]
    pairs = over_all(torch.stack([mask.sum() for mask in masks]))
    bg, fg, neg = ((loss * mask).sum() / (n + EPS) for loss, mask, n in zip((same, same, different), masks, pairs))
    return {"total": bg / 4 + fg / 4 + neg / 2, "bg": bg, "fg": fg, "neg": neg}
