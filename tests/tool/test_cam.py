"""Class activation maps: normalised, of several views, by hand."""

import numpy as np
import pytest
import torch

from tests.bench.reference import cam_of_views
from tool.cam import maxnorm, multi_scale_cam


def test_maxnorm_by_hand():
    c = torch.tensor([[[[-3.0, 1.0], [2.0, 5.0]]]])  # ReLU: 0 1 2 5
    expected = torch.tensor([[[[0.0, (1 - 1e-5) / 5.00001], [(2 - 1e-5) / 5.00001, (5 - 1e-5) / 5.00001]]]])
    torch.testing.assert_close(maxnorm(c), expected)
    assert maxnorm(torch.full((1, 1, 3, 3), 7.0)).abs().max() == 0


class MapNet:
    """Stands in for a network: the class maps are the image's first two channels, at an eighth of the size."""

    def class_maps(self, image):
        return torch.nn.functional.avg_pool2d(image[:, :2], 8)


def test_multi_scale_cam_mirrors_back_and_normalises():
    image = torch.zeros(3, 16, 16)
    image[0, :, :8] = 2.0  # class 0 is on the left
    image[1] = 5.0  # class 1 is everywhere, but not in the label
    cam = multi_scale_cam(MapNet(), [torch.stack([image, image.flip(-1)])], torch.tensor([1.0, 0.0]), (16, 16))
    assert cam.shape == (2, 16, 16) and cam[1].abs().max() == 0
    assert cam[0, :, 0].min() > 0.99 and cam[0, :, -1].max() == 0  # the mirrored view was turned back
    assert cam.max() <= 1


def test_multi_scale_cam_sums_views_before_dividing():
    small, large = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 16, 16)
    small[:, 0] = 1.0
    large[:, 0, :8] = 3.0
    cam = multi_scale_cam(MapNet(), [small, large], torch.ones(2), (2, 2))
    np.testing.assert_allclose(cam[0, :, 0].numpy(), [4 / (4 + 1e-5), 1 / (4 + 1e-5)], rtol=1e-5)


@pytest.mark.parametrize("mirror", [True, False])
def test_maps_are_upsampled_before_relu_by_hand(mirror):
    """Cells of -2 and 2 are -2, -1, 1 and 2 at twice the size, so 0, 0, 1, 2; a view without evidence adds nothing."""
    image, nothing = torch.zeros(3, 8, 16), torch.full((1, 3, 8, 8), -6.0)
    image[0, :, :8], image[0, :, 8:] = -2.0, 2.0
    views = torch.stack([image, image.flip(-1)] if mirror else [image])
    expected = torch.tensor([[0.0, 0.0, 1.0, 2.0]]) * len(views)
    for form, seen in ((multi_scale_cam, [views, nothing]), (cam_of_views, [*views[:, None], nothing])):
        if form is multi_scale_cam or mirror:  # the other takes pairs
            cam = form(MapNet(), seen, torch.tensor([1.0, 0.0]), (1, 4))
            torch.testing.assert_close(cam[0], expected / (2 * len(views) + 1e-5))
