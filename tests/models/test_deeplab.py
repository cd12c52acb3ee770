"""The segmentation networks: architecture, loss, training samples; views, CRF, zip and ONNX file that come of them."""

import math
import sys
import zipfile

import numpy as np
import onnxruntime
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from golden_inputs import state_shapes
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydensecrf.densecrf import DenseCRF2D
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
from models.export import export_onnx
from models.resnet38d import ResNet38d, count_parameters
from tool.io.files import UserError, read_list
from tool.io.images import MEAN, STD, label_image, open_mask, save_image, voc_palette
from tool.io.server_zip import SERVER_FOLDER, write_server_zip
from tool.metrics import confusion, iou, mean_iou
from tool.segmentation import label_map, multi_scale_scores, refine_scores
from voc12.data import SegSet, image_paths, label_paths
from voc12.transforms import InferenceViews, SegView, normalise

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


def draw(seed, side=128):
    """A photograph of one rectangle on grey, and its mask: its edges are edges of cells."""
    rng = np.random.default_rng(seed)
    label = np.zeros((side, side), np.uint8)
    (y, x), (height, width) = 8 * rng.integers(0, 5, 2), 8 * rng.integers(7, 12, 2)
    label[y : y + height, x : x + width] = 1 + seed % 2
    colours = np.array([[120, 120, 120], [200, 40, 40], [40, 40, 200]])[label] + rng.integers(-20, 20, (side, side, 3))
    return Image.fromarray(colours.astype(np.uint8)), label


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


# ---------------------------------------------------------------- training samples


@given(
    width=st.integers(1, 120),
    height=st.integers(1, 120),
    crop=st.integers(1, 90),
    seed=st.integers(0, 1000),
    jitter=st.sampled_from([0.0, 0.3]),
)
def test_padding_never_becomes_background(width, height, crop, seed, jitter):
    """A white image of class 1: what is not white is padding, has the mean colour, and is ignored."""
    view = SegView((0.5, 1.5), crop, (jitter, 0, 0, 0))
    photo, label = Image.new("RGB", (width, height), "white"), np.ones((height, width), np.uint8)
    x, label = view(photo, label, np.random.default_rng(seed))
    assert x.shape == (3, crop, crop) and label.shape == (crop, crop) and label.dtype == torch.uint8
    assert set(label.unique().tolist()) <= {1, 255}
    assert torch.equal(x.eq(0).all(0), label == 255)


def test_padding_is_background_where_the_recipe_has_it_so():
    x, label = SegView((1, 1), 40, (0, 0, 0, 0), padding=0)(*draw(1, side=32), np.random.default_rng(0))
    assert label[x.eq(0).all(0)].eq(0).all() and x.eq(0).all(0).sum() == 40 * 40 - 32 * 32


def test_photograph_and_mask_are_moved_alike():
    photo, label = draw(3)
    flips = set()
    for seed in range(8):
        x, mask = SegView((0.5, 1.5), 96, (0, 0, 0, 0))(photo, label, np.random.default_rng(seed))
        red = (x[0] * STD[0] + MEAN[0]) - (x[2] * STD[2] + MEAN[2])  # by 160/255 less in the blue rectangle
        inside, outside = (red < -0.35) & (mask != 255), (red > -0.2) & (mask != 255)
        assert (mask[inside] == 2).float().mean() > 0.98 and (mask[outside] == 0).float().mean() > 0.98
        flips.add(bool(mask[:, :48].eq(2).sum() > mask[:, 48:].eq(2).sum()))
    assert flips == {True, False}


@pytest.fixture
def seg_set(toy):
    ids = read_list(toy / "train.txt")

    def make(batch_size=None, scale=(0.5, 1.5)):
        view = SegView(scale, 48, (0.3, 0.3, 0.3, 0.1))
        return SegSet(toy, ids, toy / "SegmentationClass", 21, view, 0, batch_size)

    return make


def test_a_sample_depends_on_seed_epoch_and_image_alone(seg_set):
    one, other = seg_set()[2, 5], seg_set()[2, 5]
    assert one[0] == other[0] and all(torch.equal(a, b) for a, b in zip(one[1:], other[1:]))
    assert not torch.equal(one[1], seg_set()[3, 5][1])


def test_a_factor_a_batch(seg_set, monkeypatch):
    """With a batch size, images of one batch of the epoch's order have one factor, others another."""
    factors = {}
    monkeypatch.setattr("voc12.transforms.rescale", lambda image, factor, _: factors.setdefault(factor, image))
    dataset = seg_set(batch_size=4)
    order = np.random.default_rng([0, 7]).permutation(12)
    seen = []
    for index in order:
        factors.clear()
        dataset[7, int(index)]
        seen += factors
    assert [len(set(seen[k : k + 4])) for k in (0, 4, 8)] == [1, 1, 1] and len(set(seen)) == 3
    assert all(0.5 <= factor <= 1.5 for factor in seen)


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (None, "no such mask"),
        (Image.new("RGB", (64, 48)), "a mask of mode RGB"),
        (Image.new("L", (64, 48), 21), "holds id 21; ids go from 0 to 20, and 255 is ignored"),
        (Image.new("L", (48, 64)), "64 x 48 pixels, but its mask has 48 x 64"),
    ],
)
def test_masks_that_are_refused(tmp_path, mask, says):
    save_image(tmp_path / "JPEGImages" / "one.jpg", Image.new("RGB", (64, 48)))
    if mask:
        mask.save(tmp_path / "one.png")
    dataset = SegSet(tmp_path, ["one"], tmp_path, 21, SegView(), 0)
    with pytest.raises(UserError, match=says):
        dataset[0, 0]


# ---------------------------------------------------------------- from a network to labels


@pytest.fixture(scope="module")
def random_net():
    torch.manual_seed(0)
    net = DeepLab(ResNet38d(TINY), 5).eval()
    with torch.no_grad():
        net.classifier.weight *= 50  # scores that differ
    return net


@pytest.mark.parametrize("merge", ["mean", "max"])
@pytest.mark.parametrize("mirror", [True, False])
def test_views_are_merged_as_each_by_itself(random_net, merge, mirror):
    photo = draw(0)[0].crop((0, 0, 70, 51))
    scores = multi_scale_scores(random_net, InferenceViews((0.5, 1.0, 1.25), mirror)(photo), (51, 70), merge)
    logits = []
    for scale in (0.5, 1.0, 1.25):
        scaled = photo.resize((round(70 * scale), round(51 * scale)), Image.BICUBIC)
        for turned in ([], [Image.FLIP_LEFT_RIGHT]) if mirror else ([],):
            view = normalise(scaled.transpose(turned[0]) if turned else scaled)[None]
            with torch.no_grad():
                up = nn.functional.interpolate(random_net(view), (51, 70), mode="bilinear", align_corners=False)[0]
            logits.append(up.flip(-1) if turned else up)
    stack = torch.stack(logits)
    expected = stack.mean(0).softmax(0) if merge == "mean" else stack.softmax(1).amax(0)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
    assert scores.std() > 0.05  # the views do say something
    np.testing.assert_array_equal(label_map(scores), scores.argmax(0).numpy())


def test_crf_has_the_recipes_settings():
    photo, label = draw(2, side=40)
    scores = np.random.default_rng(0).dirichlet([1, 1, 1], (40, 40)).transpose(2, 0, 1).astype(np.float32)
    crf = DenseCRF2D(40, 40, 3)
    crf.setUnaryEnergy(np.ascontiguousarray(-np.log(scores.clip(1e-5)).reshape(3, -1)))
    crf.addPairwiseGaussian(sxy=4, compat=3)
    crf.addPairwiseBilateral(sxy=83, srgb=5, rgbim=np.array(photo, order="C"), compat=3)
    expected = np.array(crf.inference(10)).reshape(3, 40, 40)
    np.testing.assert_allclose(refine_scores(np.array(photo), scores), expected, atol=1e-5)


# ---------------------------------------------------------------- files


@pytest.fixture
def masks(tmp_path):
    """({ID: mask}, {ID: photograph}) of three images."""
    ids = ["2008_000006", "2008_000011", "2008_000012"]
    for image_id in ids:
        save_image(tmp_path / "JPEGImages" / f"{image_id}.jpg", Image.new("RGB", (64, 48)))
        save_image(tmp_path / "seg" / f"{image_id}.png", label_image(np.full((48, 64), 3)), "origin")
    return label_paths(tmp_path / "seg", ids), image_paths(tmp_path, ids)


def test_server_zip(masks, tmp_path):
    (tmp_path / ".one.zip.12.tmp").write_bytes(b"of a run that was killed")
    for name in ("one.zip", "other.zip"):
        write_server_zip(tmp_path / name, *masks, 21)
    assert not list(tmp_path.glob(".*"))
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "other.zip").read_bytes()
    assert SERVER_FOLDER == "results/VOC2012/Segmentation/comp6_test_cls"
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.namelist() == [f"{SERVER_FOLDER}/{i}.png" for i in masks[0]] and archive.testzip() is None
        for name in archive.namelist():
            picture = Image.open(archive.open(name))
            assert (picture.mode, picture.size) == ("P", (64, 48))
            assert picture.getpalette() == voc_palette() and np.all(np.asarray(picture) == 3)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.unlink(), r"no such mask \(1 of 3 .*no zip is written"),
        (lambda path: save_image(path, label_image(np.zeros((64, 48)))), "64 x 48 pixels, but its mask has 48 x 64"),
        (lambda path: path.write_bytes(path.read_bytes()[:60]), "unreadable mask"),
    ],
)
def test_no_zip_of_part_of_a_list(masks, tmp_path, damage, says):
    path = list(masks[0].values())[1]
    damage(path)
    with pytest.raises(UserError, match=says) as refused:
        write_server_zip(tmp_path / "x.zip", *masks, 21)
    assert path.stem in str(refused.value) and not list(tmp_path.glob("*x.zip*"))


@pytest.mark.parametrize("arch", ["deeplab_resnet38d", SMP])
def test_onnx_computes_what_torch_does(arch, tmp_path):
    torch.manual_seed(0)
    net = make_segmentation_net(arch, 5, TINY if arch.endswith("38d") else 1.0)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):  # as after training
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
    (tmp_path / ".net.onnx.12.tmp").write_bytes(b"of a run that was killed")
    export_onnx(net, tmp_path / "net.onnx")
    assert net.training and [p.name for p in tmp_path.iterdir()] == ["net.onnx"]
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    net.eval()
    for batch, height, width in ((1, 72, 100), (2, 41, 30)):
        image = torch.rand(batch, 3, height, width)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (net.trunk.mean, net.trunk.std))
        with torch.no_grad():
            logits = net((image - mean) / std)
            logits = nn.functional.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
        result = session.run(["logits"], {"image": image.numpy()})[0]
        np.testing.assert_allclose(result, logits.numpy(), atol=1e-4 * float(logits.abs().max()))


def test_without_onnxruntime_the_export_says_that_nothing_was_compared(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    export_onnx(make_segmentation_net("deeplab_resnet38d", 5, TINY), tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").stat().st_size > 1000
    assert "net.onnx: not compared with torch's results, which needs the package onnxruntime" in capsys.readouterr().err


def test_what_has_no_onnx_form_is_said_in_one_line(tmp_path, capfd):
    net = make_segmentation_net("smp:UPerNet:test_resnet", 2)
    with pytest.raises(UserError, match="this network has no ONNX form"):
        export_onnx(net, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir()) and capfd.readouterr().out == ""


def test_masks_of_a_folder_are_read_as_ids(tmp_path):
    """A palette of any colours, or grey: the ids count."""
    ids = np.array([[0, 1], [20, 255]], np.uint8)
    picture = Image.fromarray(ids, mode="P")
    picture.putpalette([9] * 768)
    picture.save(tmp_path / "palette.png")
    Image.fromarray(ids).save(tmp_path / "grey.png")
    for name in ("palette", "grey"):
        assert np.array_equal(open_mask(tmp_path / f"{name}.png", 21), ids)
