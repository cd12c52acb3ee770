"""The segmentation networks: architecture, loss, and that they learn."""

import math

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from golden_inputs import draw, state_shapes
from torch import nn

from models.checkpoint import load_weights, save_weights
from models.deeplab import (
    DeepLab,
    label_loss,
    make_segmentation_net,
    multi_scale_loss,
    network_settings,
    pyramid_logits,
)
from models.resnet38d import ResNet38d, count_parameters
from tool.io.files import UserError
from tool.metrics import confusion, iou, mean_iou
from tool.segmentation import label_map, multi_scale_scores
from voc12.transforms import normalise

TINY = 1 / 16
SMP = "smp:DeepLabV3Plus:test_resnet"
LN2 = math.log(2)


# ---------------------------------------------------------------- networks


def test_state_and_size_at_full_width():
    with torch.device("meta"):
        net = DeepLab(ResNet38d())
    heads = ("f8_3.", "f8_4.", "f8_5.", "f9.")
    expected = {k: v for k, v in state_shapes("affinity").items() if not k.startswith(heads)}
    expected |= {"conv_fov.weight": (512, 4096, 3, 3), "conv_fov.bias": (512,)}
    expected |= {"classifier.weight": (21, 512, 3, 3), "classifier.bias": (21,)}
    assert [(k, tuple(v.shape)) for k, v in net.released_state().items()] == list(expected.items())
    assert len(expected) == 232 and count_parameters(net) == 124_042_581


@pytest.mark.parametrize("arch", ["deeplab_resnet38d", "deeplab_timm:test_resnet"])
@pytest.mark.parametrize("size", [(1, 1), (33, 47), (64, 80)])
def test_logits_have_a_value_a_cell_of_eight_pixels(arch, size):
    net = make_segmentation_net(arch, 4, TINY if arch.endswith("38d") else 1.0).eval()
    assert net(torch.zeros(2, 3, *size)).shape == (2, 4, *(-(-n // 8) for n in size))


class Cells(nn.Module):
    """A trunk that is its input: one channel a colour."""

    out_channels = 3

    def forward(self, x):
        return x


def test_head_by_hand():
    """One tap of each dilated convolution: a cell sees another 12 away, twice, and ReLU stands between."""
    net = DeepLab(Cells(), 2)
    assert net.conv_fov.bias.eq(0).all() and net.classifier.bias.eq(0).all()
    bound = math.sqrt(6 / (9 * (3 + 512)))  # xavier, uniform
    assert 0.99 * bound < net.conv_fov.weight.abs().max() <= bound
    with torch.no_grad():
        net.conv_fov.weight.zero_()
        net.classifier.weight.zero_()
        net.conv_fov.weight[7, 1, 0, 1] = 2.0  # what is 12 above in green
        net.conv_fov.bias[7] = -1.0
        net.classifier.weight[1, 7, 1, 2] = 3.0  # what is 12 to the right
        net.classifier.bias[1] = 0.5
    image = torch.zeros(1, 3, 30, 40)
    image[0, 1, 5, 30] = 4.0
    image[0, 1, 5, 31] = 0.25  # 2 * 0.25 - 1 is below 0
    image[0, 0, 6, 30] = 9.0
    expected = torch.full((30, 40), 0.5)
    expected[17, 18] = 3 * (2 * 4 - 1) + 0.5
    logits = net(image)[0]
    torch.testing.assert_close(logits[1], expected)
    assert logits[0].eq(0).all()


@pytest.mark.parametrize("arch", ["Unet", "FPN", "DeepLabV3Plus", "Segformer"])
def test_networks_of_the_library_are_its_own(arch, tmp_path):
    """Same entries, same logits; images that do not fit are padded to the right and at the bottom."""
    net = make_segmentation_net(f"smp:{arch}:test_resnet", 4).eval()
    save_weights(net, tmp_path / "net.pth")
    theirs = getattr(smp, arch)("tu-test_resnet", encoder_weights=None, classes=4).eval()
    theirs.load_state_dict(torch.load(tmp_path / "net.pth", weights_only=True))
    image = torch.rand(2, 3, 40, 50)
    padded = torch.zeros(2, 3, 48 if arch == "DeepLabV3Plus" else 64, 64)  # its encoder has stride 16, others' 32
    padded[..., :40, :50] = image
    torch.testing.assert_close(net(image), theirs(padded)[..., :40, :50])


def test_fine_tuning_freezes_what_was_pretrained():
    deeplab = DeepLab(ResNet38d(TINY), 3).freeze().train()
    assert not any(p.requires_grad for p in deeplab.trunk.b2_2.parameters())
    assert not any(m.training for m in deeplab.modules() if isinstance(m, nn.BatchNorm2d))
    groups = {g["name"]: g for g in deeplab.param_groups(0.1, 5e-4, 10.0)}
    assert [(k, round(g["lr"], 6), g["weight_decay"]) for k, g in groups.items()] == [
        ("trunk weight", 0.1, 5e-4),
        ("scratch weight", 1.0, 5e-4),
        ("scratch bias", 1.0, 0.0),
    ]
    assert [p.shape[0] for p in groups["scratch weight"]["params"]] == [512, 3]

    net = make_segmentation_net(SMP, 3).freeze().train()
    norms = {part: [m for m in net.get_submodule(part).modules() if isinstance(m, nn.BatchNorm2d)] for part in PARTS}
    assert len(norms["trunk"]) > 10 and not any(m.training or m.weight.requires_grad for m in norms["trunk"])
    assert len(norms["decoder"]) > 5 and all(m.training and m.weight.requires_grad for m in norms["decoder"])


PARTS = ("trunk", "decoder")


@pytest.mark.parametrize("encoder", ["test_resnet", "test_convnext", "test_efficientnet"])
def test_an_encoder_takes_timms_weights(encoder, tmp_path):
    theirs = timm.create_model(encoder, num_classes=7).eval()
    torch.save(theirs.state_dict(), tmp_path / "timm.pth")
    net = make_segmentation_net(f"smp:Unet:{encoder}", 4).eval()
    left = load_weights(net, tmp_path / "timm.pth", part="trunk")
    assert left == [k for k in net.released_state() if not k.startswith("encoder.")]
    image = torch.rand(1, 3, 64, 64)
    maps = theirs.forward_intermediates(image, intermediates_only=True)
    torch.testing.assert_close(net.trunk(image)[-1], maps[-1])


def test_an_encoder_does_not_take_a_deeper_one(tmp_path):
    torch.save(timm.create_model("resnet34").state_dict(), tmp_path / "deep.pth")
    with pytest.raises(UserError, match=r"encoder.model.layer1.2.* is not of this network"):
        load_weights(make_segmentation_net("smp:FPN:resnet18", 2), tmp_path / "deep.pth", part="trunk")


@pytest.mark.parametrize(
    ("arch", "says"),
    [
        ("deeplab", "there are deeplab_resnet38d, deeplab_timm:NAME, smp:ARCH:ENCODER"),
        ("deeplab_vgg", "trunk vgg: there are resnet38d and timm:NAME"),
        ("deeplab_timm:resnet1", "timm has no such model; near: resnet18"),
        ("smp:Unet", "smp:ARCH:ENCODER"),
        ("smp:Unett:resnet18", "no such architecture; did you mean Unet?"),
        ("smp:DPT:test_vit", "no such architecture; there are Unet,"),
        ("smp:Unet:resnet1", "timm has no such model; near: resnet18"),
        ("smp:Unet:test_vit", "cannot be built"),
        ("smp:Unet:swin_tiny_patch4_window7_224", "take a CNN of timm"),
    ],
)
def test_networks_that_do_not_exist(arch, says):
    with pytest.raises(UserError, match=says.replace("?", r"\?")):
        make_segmentation_net(arch, 4)


def test_the_stride_of_a_trunk():
    """8 pixels a cell where the trunk has the choice; of an experiment, its own stride where the trunk is its own."""
    strides = {"timm:test_resnet": 8, "timm:test_vit": 16}
    assert {k: make_segmentation_net(f"deeplab_{k}", 2).trunk.stride for k in strides} == strides
    with pytest.raises(UserError, match="output stride 8: its cells have 16 pixels"):
        make_segmentation_net("deeplab_timm:test_vit", 2, output_stride=8)
    experiment = {"trunk": "resnet38d", "width": 0.5, "output_stride": None}
    assert network_settings("deeplab_resnet38d", experiment)["width"] == 0.5
    assert network_settings(SMP, experiment) == {"arch": SMP, "width": 1.0, "output_stride": None}
    experiment = {"trunk": "timm:test_resnet", "width": 1.0, "output_stride": 16}
    net = make_segmentation_net(**network_settings("deeplab_timm:test_resnet", experiment))
    assert net.trunk.stride == 16
    assert network_settings("deeplab_resnet38d", experiment)["output_stride"] is None


def test_weights_that_are_not_there(monkeypatch):
    def offline(*args, pretrained=False, make=timm.create_model, **kwargs):
        if pretrained:
            raise OSError("no network")
        return make(*args, **kwargs)

    monkeypatch.setattr(timm, "create_model", offline)
    says = r"timm:test_resnet: weights not fetched \(no network\); --pretrained takes a file"
    for arch in (SMP, "deeplab_timm:test_resnet"):
        with pytest.raises(UserError, match=says):
            make_segmentation_net(arch, 4, fetch=True)


# ---------------------------------------------------------------- the loss


def test_loss_by_hand():
    """Of four cells one is ignored; a cell's label is that of the pixel next to its middle."""
    label = torch.tensor([[0, 2, 2, 2], [2, 1, 2, 0], [2, 2, 2, 2], [2, 255, 2, 1]])[None]
    logits = torch.zeros(1, 3, 2, 2)  # cells have labels 1, 0 (above) and 255, 1
    assert label_loss(logits, label).item() == pytest.approx(math.log(3))
    logits[0, 1, 0, 0] = LN2  # probabilities 1/4, 1/2, 1/4
    logits[0, 0, 0, 1] = math.log(6)  # 6/8, 1/8, 1/8
    logits[0, :, 1, 0] = torch.tensor([9.0, -9.0, 0.0])  # ignored
    assert label_loss(logits, label).item() == pytest.approx((LN2 + math.log(8 / 6) + math.log(3)) / 3)


def test_loss_at_pixels_by_hand():
    """Two cells with logits of 0 and ln 9 for class 1 are four pixels of 0, a quarter, three quarters, and ln 9."""

    def net(image):
        return torch.tensor([[0.0, 0.0], [0.0, math.log(9)]]).view(1, 2, 1, 2)

    label = torch.tensor([[[0, 1, 255, 1]]])
    at = [math.log(1 + 9**share) - share * math.log(9) * wrong for share, wrong in ((0, 0), (0.25, 1), (1, 1))]
    loss = multi_scale_loss(net, torch.zeros(1, 3, 1, 4), label, (1.0,), at="pixels")
    assert loss.item() == pytest.approx(sum(at) / 3)
    cells = multi_scale_loss(net, torch.zeros(1, 3, 1, 4), label, (1.0,))
    assert cells.item() == pytest.approx((LN2 + math.log(10) - math.log(9)) / 2)  # of the pixels 1 and 3


def test_loss_of_nothing_but_ignored_pixels_is_zero():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = label_loss(logits, torch.full((2, 8, 8), 255))
    loss.backward()
    assert loss.item() == 0 and logits.grad.eq(0).all()


def test_parts_of_a_batch_sum_to_the_loss_of_the_whole():
    torch.manual_seed(0)
    net, image = nn.Conv2d(3, 4, 1), torch.rand(5, 3, 16, 16)
    label = torch.randint(0, 4, (5, 16, 16))
    label[:3, 3:, 2:] = 255  # processes have different numbers of pixels that count
    whole = multi_scale_loss(net, image, label)
    counts = []
    multi_scale_loss(net, image, label, over_all=lambda n: counts.append(n) or n)
    totals = iter(2 * counts)
    parts = [multi_scale_loss(net, image[k::2], label[k::2], over_all=lambda _: next(totals)).item() for k in (0, 1)]
    assert whole.item() == pytest.approx(sum(parts), rel=1e-6)


def test_the_pyramid_has_every_scale_and_their_maximum():
    """A network whose logits say how wide its image was: 40, 30 and 20; of two labels one likes it small."""

    def net(image):
        width = float(image.shape[-1])
        shape = [-(-n // 8) for n in image.shape[-2:]]
        return torch.stack([torch.full(shape, width), torch.full(shape, -width)])[None]

    pyramid = pyramid_logits(net, torch.zeros(1, 3, 24, 40))
    assert [tuple(x.shape[2:]) for x in pyramid] == [(3, 5), (3, 4), (2, 3), (3, 5)]
    assert [x[0, :, 0, 0].tolist() for x in pyramid] == [[40, -40], [30, -30], [20, -20], [40, -20]]
    label = torch.zeros(1, 24, 40, dtype=torch.long)
    label[..., 1] = 1  # no pixel next to the middle of a cell
    expected = sum(math.log1p(math.exp(-d)) for d in (80, 60, 40, 60))
    assert multi_scale_loss(net, torch.zeros(1, 3, 24, 40), label).item() == pytest.approx(expected, abs=1e-6)
    label += 1
    expected = 80 + 60 + 40 + 60
    assert multi_scale_loss(net, torch.zeros(1, 3, 24, 40), label.clamp(max=1)).item() == pytest.approx(expected)
    assert len(pyramid_logits(net, torch.zeros(1, 3, 24, 40), (1.0,))) == 1


def test_the_maximum_over_scales_is_of_float32():
    """Under autocast too, where values that bfloat16 cannot tell apart would share a gradient."""
    net = nn.Conv2d(3, 2, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pyramid = pyramid_logits(net, torch.rand(1, 3, 24, 40))
    assert [logits.dtype for logits in pyramid] == [torch.bfloat16] * 3 + [torch.float32]


def test_a_network_learns_four_images_by_heart():
    photos, labels = zip(*(draw(k) for k in range(4)))
    image, label = torch.stack([normalise(p) for p in photos]), torch.from_numpy(np.stack(labels))
    torch.manual_seed(0)
    net = DeepLab(ResNet38d(TINY, (0, 0)), 3).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for _ in range(30):
        loss = multi_scale_loss(net, image, label, (1.0,))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    scores = [multi_scale_scores(net, [x[None]], mask.shape) for x, mask in zip(image, labels)]
    counts = sum(confusion(mask, label_map(s), 3) for mask, s in zip(labels, scores))
    assert mean_iou(iou(counts))[0] > 0.95
