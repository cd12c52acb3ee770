"""Trunks that pad an image to whole cells: what is made of their maps stands where the image is, in every stage."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.aeft import AEFTNet
from models.affinity import AffinityNet
from models.deeplab import DeepLab, multi_scale_loss, pyramid_logits
from models.export import Deployed
from models.triplet import TripletErasing
from models.trunks import make_trunk
from tool.cam import maxnorm, multi_scale_cam, padding_of
from tool.pseudo_labels import walk_scores
from tool.segmentation import multi_scale_scores

PADDING = ["timm:test_vit", "timm:test_convnext", "timm:dla46_c"]  # cells of 16, 32 and 32 pixels
SIZE = (45, 61)


def at_pixels(maps, image, canvas, size):
    """maps(image B x 3 x H x W) by hand: the image on its canvas, upsampled to that, cut, brought to `size`."""
    height, width = image.shape[-2:]
    if [height, width] == canvas:
        with torch.no_grad():
            return F.interpolate(maps(image), size, mode="bilinear", align_corners=False)
    top, left = (canvas[0] - height) // 2, (canvas[1] - width) // 2
    padded = image.new_zeros(len(image), 3, *canvas)
    padded[..., top : top + height, left : left + width] = image
    with torch.no_grad():
        whole = F.interpolate(maps(padded), canvas, mode="bilinear", align_corners=False)
    part = whole[..., top : top + height, left : left + width]
    return F.interpolate(part, size, mode="bilinear", align_corners=False)


def canvas_of(name, size):
    stride = 16 if name.endswith("vit") else 32
    return [-(-side // stride) * stride for side in size]


def net_of(kind, name, **options):
    torch.manual_seed(0)
    return kind(make_trunk(name), 3, **options).eval()


@pytest.mark.parametrize("name", PADDING)
def test_cams_stand_where_the_image_is(name):
    net, label = net_of(AEFTNet, name), torch.tensor([1.0, 0.0, 1.0])
    views = [torch.randn(2, 3, *SIZE), torch.randn(2, 3, 23, 31), torch.randn(1, 3, 64, 96)]
    maps = [F.relu(at_pixels(net.class_maps, v, canvas_of(name, v.shape[-2:]), SIZE)) for v in views]
    total = sum(m[0] + (m[1].flip(-1) if len(m) > 1 else 0) for m in maps) * label[:, None, None]
    expected = total / (total.amax((1, 2), keepdim=True) + 1e-5)
    assert expected.amax() > 0.99
    torch.testing.assert_close(multi_scale_cam(net, views, label, SIZE), expected, rtol=1e-4, atol=1e-5)


class Wrapped(nn.Module):
    """As a network is wrapped for several processes; keeps the images that it sees."""

    def __init__(self, module):
        super().__init__()
        self.module, self.images = module, []

    def forward(self, image):
        self.images.append(image)
        return self.module(image)


@pytest.mark.parametrize("name", PADDING)
def test_what_is_erased_stands_where_the_image_is(name):
    net, image, label = Wrapped(net_of(AEFTNet, name)), torch.randn(2, 3, *SIZE), torch.eye(2, 3)
    with torch.no_grad():
        net.module.fc9.weight.abs_()  # there is evidence of every class
    TripletErasing(high=0.6)(net, image, label)
    cam = at_pixels(lambda x: F.relu(net.module.class_maps(x)), image, canvas_of(name, SIZE), SIZE)
    f = (maxnorm(cam) * label[:, :, None, None]).amax(1, keepdim=True)
    _, erased = net.images
    sure = (f - 0.6).abs() > 1e-3
    torch.testing.assert_close(erased * sure, image * f * (f < 0.6) * sure, rtol=1e-4, atol=1e-4)
    assert 0.01 < (f > 0.6).float().mean() < 0.9


@pytest.mark.parametrize("merge", ["mean", "max"])
@pytest.mark.parametrize("name", PADDING)
def test_segmentation_stands_where_the_image_is(name, merge):
    net, views = net_of(DeepLab, name), [torch.randn(2, 3, *SIZE), torch.randn(2, 3, 67, 91)]
    logits = [at_pixels(net, view, canvas_of(name, view.shape[-2:]), SIZE) for view in views]
    stack = torch.cat([torch.stack([x[0], x[1].flip(-1)]) for x in logits])
    expected = stack.mean(0).softmax(0) if merge == "mean" else stack.softmax(1).amax(0)
    torch.testing.assert_close(multi_scale_scores(net, views, SIZE, merge), expected, rtol=1e-4, atol=1e-5)
    deployed = Deployed(net)
    deployed.mean.zero_(), deployed.std.fill_(1)
    torch.testing.assert_close(deployed(views[0])[0], logits[0][0], rtol=1e-4, atol=1e-4)


class Cells(nn.Module):
    """A trunk that pads like timm's; what(padded image) gives the value of each cell of 16 pixels."""

    out_channels = 3

    def __init__(self, what):
        super().__init__()
        self.what = what

    def padding(self, height, width):
        rows, columns = -height % 16, -width % 16
        return columns // 2, columns - columns // 2, rows // 2, rows - rows // 2

    def forward(self, x):
        return self.what(F.pad(x, self.padding(*x.shape[-2:])))


class Bare(nn.Module):
    """A network that is its trunk."""

    def __init__(self, what):
        super().__init__()
        self.trunk = Cells(what)

    def forward(self, image):
        return self.trunk(image)


def middles(x):
    """Of each cell the pixel that `nearest` takes."""
    return x[..., 8::16, 8::16]


@pytest.mark.parametrize("size", [SIZE, (48, 64), (33, 79)])
def test_labels_of_cells_are_those_of_the_pixels_in_their_middles(size):
    """Logits that say what the pixel in the middle of a cell is: no loss. In the padding they are ignored."""
    label = torch.randint(0, 3, (2, *size), generator=torch.Generator().manual_seed(0))
    image = 40 * F.one_hot(label, 3).permute(0, 3, 1, 2).float()
    assert multi_scale_loss(Bare(middles), image, label.byte(), (1.0,)).item() < 1e-6
    assert multi_scale_loss(Bare(middles), image, 2 - label.byte(), (1.0,)).item() > 5


def ramp(height, width):
    """An image whose values say in which column they stand."""
    return torch.arange(width).float().expand(1, 3, height, width) - width / 2


def test_logits_of_all_scales_meet_on_the_cells_of_the_first():
    """A cell is the mean of its pixels: of a ramp the value in its middle, which is the same at every scale."""
    view = ramp(170, 170)
    pyramid = pyramid_logits(Bare(lambda x: F.avg_pool2d(x, 16)), view, (1.0, 0.5))
    left = 3  # of 6 columns that make 176
    expected = torch.arange(11) * 16 + 7.5 - left - 85
    inside = slice(3, 8)  # far from the zeros around the image
    torch.testing.assert_close(pyramid[0][0, 0, 5, inside], expected[inside])
    torch.testing.assert_close(pyramid[2][0, 0, 5, inside], expected[inside], atol=0.3, rtol=0)
    assert pyramid[2].shape == pyramid[0].shape and torch.isfinite(pyramid[2]).all()


def test_losses_at_pixels_stand_where_the_image_is():
    """The columns right of the middle are of class 1: a logit that is the column's place there has the least loss."""
    view = ramp(45, 173)
    net = Bare(lambda x: F.avg_pool2d(x, 16) * torch.tensor([0.0, 1.0, -1e4]).view(1, 3, 1, 1))
    losses = {}
    for shift in (-8, -4, 0, 4, 8):
        label = ((torch.arange(173) - 86.5 + shift) > 0).byte().expand(1, 45, 173).clone()
        label[..., :32], label[..., -32:] = 255, 255
        losses[shift] = multi_scale_loss(net, view, label, (1.0,), at="pixels").item()
    assert min(losses, key=losses.get) == 0, losses


@pytest.mark.parametrize("name", PADDING[:2])
def test_the_walk_leaves_scores_where_they_are(name):
    """Affinities of 0 move nothing: scores are averaged over a cell and upsampled; the walk pads by itself."""
    net = net_of(lambda trunk, _: AffinityNet(trunk), name)
    with torch.no_grad():
        net.f9.weight *= 1e4
    rng = np.random.default_rng(0)
    scores, side = rng.random((2, 150, 170), np.float32), net.stride
    walked = walk_scores(net, torch.randn(3, 150, 170), scores, torch.device("cpu"), beta=1e4)
    canvas = [-(-n // side) * side for n in (150, 170)]
    assert padding_of(net, *canvas) == (0, 0, 0, 0) != padding_of(net, 150, 170)
    padded = torch.zeros(1, 2, *canvas)
    padded[0, :, :150, :170] = torch.from_numpy(scores)
    expected = F.interpolate(F.avg_pool2d(padded, side), canvas, mode="bilinear", align_corners=False)
    np.testing.assert_allclose(walked, expected[0, :, :150, :170].numpy(), atol=1e-5)
