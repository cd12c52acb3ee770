"""ResNet-38's own layers and the size of its maps."""

import pytest
import torch
from torch import nn

from models.aeft import AEFTNet
from models.resnet38d import Conv1x1, ResNet38d


def test_strided_1x1_equals_the_convolution_it_replaces():
    ours = Conv1x1(3, 5, stride=2)
    theirs = nn.Conv2d(3, 5, 1, stride=2, bias=False)
    theirs.load_state_dict(ours.state_dict())
    for size in ((7, 8), (8, 7), (1, 1)):
        x = torch.randn(2, 3, *size)
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 47), (64, 64)])
def test_any_image_size_gives_maps_of_an_eighth(size):
    cam, logits, gpp = AEFTNet(ResNet38d(1 / 16), num_classes=3).eval()(torch.randn(1, 3, *size))
    assert cam.shape == gpp.shape == (1, 3, -(-size[0] // 8), -(-size[1] // 8))
    assert logits.shape == (1, 3) and torch.isfinite(logits).all()
