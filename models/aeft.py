"""The classifier of AEFT: a trunk, two 1x1 convolutions that give class maps, gated pyramid pooling.

On ResNet-38 of width 1, with 20 classes, this should have 106,129,440 parameters and 241 state entries.
"""

import torch
import torch.nn.functional as F
from torch import nn

from models.gpp import class_logits, make_pooling
from models.network import TrunkNet
from models.resnet38d import Conv1x1

HIDDEN = 256  # channels between fc8 and fc9


class AEFTNet(TrunkNet):
    """image B x 3 x H x W -> cam B x C x h x w, logits B x C, gpp B x C x h x w.

    h = ceil(H/s), w = ceil(W/s) with the stride s of the trunk (models/trunks.py says what a trunk is).
    `cam` and `gpp` have both signs; their positive part is evidence for a class.
    pool: one of models.gpp.POOLS; the paper compares them.
    """

    def __init__(self, trunk, num_classes=20, pool="gpp"):
        super().__init__(trunk)
        self.pool = str(pool)
        self.fc8 = Conv1x1(trunk.out_channels, HIDDEN)
        self.bn8 = nn.BatchNorm2d(HIDDEN).requires_grad_(False)  # released state has it, released forward does not
        self.fc9 = Conv1x1(HIDDEN, num_classes)
        self.gpp = make_pooling(self.pool, num_classes)
        for layer in (self.fc8, self.fc9):
            nn.init.xavier_uniform_(layer.weight)

    def train(self, mode=True):
        super().train(mode)
        self.bn8.eval()
        return self

    def class_maps(self, image):
        """image B x 3 x H x W -> cam B x C x h x w; all that inference needs."""
        return self.fc9(F.relu(self.fc8(self.trunk(image))))

    def forward(self, image):
        cam = self.class_maps(image)
        # the pooling head is small and sensitive to rounding: float32 also under autocast
        with torch.autocast(cam.device.type, enabled=False):
            cam = cam.to(torch.promote_types(cam.dtype, torch.float32))
            gpp = self.gpp(cam)
            logits = cam.mean((2, 3)) if self.pool == "gap" else class_logits(cam, gpp)
        return cam, logits, gpp
