"""The networks against values of the released code, and properties that follow from the paper."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_inputs import golden_image, golden_state, load, state_shapes
from torch import nn

from models.aeft import AEFTNet
from models.checkpoint import released_names
from models.gpp import POOLS, Gate, GatedPyramidPooling, class_logits, make_pooling
from models.resnet38d import Conv1x1, ResNet38d, count_parameters
from models.triplet import TripletErasing, class_disjoint_partner, masked_mean
from tool.cam import maxnorm
from tool.io.files import UserError


@pytest.fixture(scope="module")
def classifier():
    net = AEFTNet(ResNet38d(dropout=(0.0, 0.0)))
    net.load_released_state(golden_state(state_shapes("aeft_gpp")))
    return net


def test_classifier_state_is_the_released_one(classifier):
    ours = [(k, tuple(v.shape)) for k, v in classifier.released_state().items()]
    assert ours == list(state_shapes("aeft_gpp").items())
    assert len(ours) == 241
    assert count_parameters(classifier) == 106_129_440


def test_classifier_outputs_are_the_released_ones(classifier):
    golden = load("classifier")
    with torch.no_grad():
        outputs = classifier.eval()(golden_image(golden["shape"], float(golden["phase"])))
    for name, output in zip(("cam", "logit", "gpp"), outputs):
        np.testing.assert_allclose(output.numpy(), golden[name], rtol=1e-4, atol=1e-4 * np.abs(golden[name]).max())


@pytest.mark.parametrize("key", ["warmup", "full_M6.0", "full_M6.25", "full_M8.0"])
def test_training_step_losses_and_gradients_are_the_released_ones(classifier, key):
    golden = load("train_step")
    net = classifier.freeze().train()
    margin = 0.5 if key == "warmup" else float(key.removeprefix("full_M"))
    losses = TripletErasing(*golden["TH"], margin=margin, weights=tuple(golden["W"]))
    net.zero_grad()
    image = golden_image(golden["shape"], float(golden["phase"]))
    terms = losses(net, image, torch.from_numpy(golden["label"]), erase=key != "warmup")
    terms["total"].backward()
    values = [terms[k].item() for k in ("total", "attract", "repel")]
    np.testing.assert_allclose(values, golden[f"{key}_total_attract_repulse"], rtol=2e-5, atol=1e-6)
    parameters, names = dict(net.named_parameters()), released_names(net)
    for name in golden.files:
        if name.startswith(f"{key}_gradnorm_"):
            norm = parameters[names[name.removeprefix(f"{key}_gradnorm_")]].grad.double().norm().item()
            assert norm == pytest.approx(float(golden[name]), rel=1e-4), name


def test_frozen_layers_get_no_gradient_and_keep_their_statistics(classifier):
    net = classifier.freeze().train()
    before = {k: v.clone() for k, v in net.state_dict().items() if "running" in k}
    image = golden_image((2, 3, 32, 32), 0.1)
    net.zero_grad()
    TripletErasing()(net, image, torch.eye(2, 20))["total"].backward()
    for name, parameter in net.named_parameters():
        layer = name.removeprefix("trunk.").split(".")[0]
        frozen = layer in ("conv1a", "b2", "b2_1", "b2_2") or ".bn_" in name or layer.startswith("bn")
        assert parameter.requires_grad != frozen, name
        assert (parameter.grad is None) == frozen, name
    for name, value in before.items():
        assert torch.equal(value, net.state_dict()[name]), name


def test_from_scratch_everything_trains():
    net = AEFTNet(ResNet38d(1 / 16)).train()
    TripletErasing()(net, torch.randn(4, 3, 32, 32), torch.eye(4, 20))["total"].backward()
    still = {name for name, p in net.named_parameters() if p.grad is None}
    assert still == {"bn8.weight", "bn8.bias"}  # in the released state, used by no forward


def test_erased_images_do_not_move_running_statistics():
    """Inference normalises with these, and it sees whole images."""
    torch.manual_seed(0)
    trunk = ResNet38d(1 / 16, dropout=(0.0, 0.0))
    image, label = torch.randn(4, 3, 32, 32), torch.eye(4, 20)
    net, alone = AEFTNet(trunk).train(), AEFTNet(copy.deepcopy(trunk)).train()
    TripletErasing()(net, image, label, erase=True)
    alone(image)
    for name, value in alone.state_dict().items():
        if "running" in name:
            assert torch.equal(value, net.state_dict()[name]), name
    assert net.trunk.bn7.momentum == 0.1


def test_parameter_groups_follow_the_released_rates():
    net = AEFTNet(ResNet38d(1 / 16)).freeze()
    groups = {g["name"]: g for g in net.param_groups(0.01, 5e-4, scratch_lr_mult=10)}
    assert set(groups) == {"trunk weight", "scratch weight"}  # frozen: no bias is left to train
    assert groups["scratch weight"]["lr"] == pytest.approx(0.1) and groups["trunk weight"]["lr"] == 0.01
    assert len(groups["scratch weight"]["params"]) == 8
    scratch = AEFTNet(ResNet38d(1 / 16)).param_groups(0.01, 5e-4, 1.0)
    assert {g["name"]: g["weight_decay"] for g in scratch} == {
        "trunk weight": 5e-4,
        "trunk bias": 0.0,
        "scratch weight": 5e-4,
    }


def test_parameters_stand_in_the_order_of_the_released_names(classifier):
    """An optimiser's state in a resume file is by number: files from before the trunk was a submodule fit."""
    parameters = dict(classifier.named_parameters())
    ours = [name for name, inside in released_names(classifier).items() if inside in parameters]
    assert [released_names(classifier)[name] for name in ours] == list(parameters)
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    assert ours == [name for name in state_shapes("aeft_gpp") if not name.endswith(buffers)]


def test_synchronised_batchnorm_keeps_names_and_parameters():
    net = AEFTNet(ResNet38d(1 / 16))
    before = net.state_dict(keep_vars=True)
    net.synchronise_batchnorm()
    assert isinstance(net.trunk.b2.bn_branch2a, nn.SyncBatchNorm) and isinstance(net.trunk.bn7, nn.SyncBatchNorm)
    after = net.state_dict(keep_vars=True)
    assert list(after) == list(before) and all(after[name] is before[name] for name in before)


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


def gate_reference(gate, x, y):
    """The equation of the paper, pixel by pixel."""
    a = torch.sigmoid(F.conv2d(torch.cat([x.clamp(min=0), y.clamp(min=0)], 1), gate.att_p[0].weight, padding=1))
    b = torch.sigmoid(F.conv2d(torch.cat([(-x).clamp(min=0), (-y).clamp(min=0)], 1), gate.att_n[0].weight, padding=1))
    out = torch.zeros_like(x)
    for n, c, i, j in np.ndindex(*x.shape):
        positive = max(x[n, c, i, j], 0) * a[n, 0, i, j] + max(y[n, c, i, j], 0) * a[n, 1, i, j]
        negative = max(-x[n, c, i, j], 0) * b[n, 0, i, j] + max(-y[n, c, i, j], 0) * b[n, 1, i, j]
        out[n, c, i, j] = positive / 2 - negative / 2
    return out


def test_gate_equation():
    gate, x, y = Gate(3), torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    with torch.no_grad():
        torch.testing.assert_close(gate(x, y), gate_reference(gate, x, y))


def test_gpp_of_a_constant_map_with_half_open_gates():
    """With zero weights every gate is sigmoid(0) = 1/2, so G(x, y) = (x + y)/4: c/2, then 3c/8, then 11c/32."""
    gpp = GatedPyramidPooling(2)
    nn.init.zeros_(gpp.gconv1.att_p[0].weight)
    for parameter in gpp.parameters():
        nn.init.zeros_(parameter)
    for c in (4.0, -4.0):
        out = gpp(torch.full((1, 2, 16, 16), c))
        torch.testing.assert_close(out, torch.full((1, 2, 16, 16), c * 11 / 32))


def test_class_logits_by_hand():
    cam = torch.tensor([[[[1.0, -2.0], [3.0, 0.0]]]])
    gpp = torch.tensor([[[[2.0, -1.0], [-1.0, 5.0]]]])
    assert class_logits(cam, gpp).item() == pytest.approx((1 * 2) / 4 - (2 * 1) / 4)


def half(columns):
    """1 x 1 x 16 x 16, every row the same: 0, these values in columns 4 to 11, then 8."""
    return torch.tensor([0.0] * 4 + columns + [8.0] * 4).expand(1, 1, 16, 16)


STEP = half([0.0] * 4 + [8.0] * 4)  # a class map: nothing on the left, 8 on the right
PYRAMID = {  # P_k of it: cells of 16 / k pixels, linear between their centres
    2: half([0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5]),
    4: half([0.0, 0.0, 1.0, 3.0, 5.0, 7.0, 8.0, 8.0]),
    8: half([0.0, 0.0, 0.0, 2.0, 6.0, 8.0, 8.0, 8.0]),
    16: STEP,
}


def pooling(pool):
    """The module with gates that are half open everywhere: G(x, y) = (x + y)/4."""
    module = make_pooling(pool, 1)
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


@pytest.mark.parametrize("pool", POOLS)
def test_every_pooling_by_hand(pool):
    expected = {str(k): maps for k, maps in PYRAMID.items()} | {
        "gap": STEP,
        "avg": sum(PYRAMID.values()) / 4,
        "gpp": PYRAMID[2] / 64 + PYRAMID[4] / 64 + PYRAMID[8] / 16 + PYRAMID[16] / 4,
        "gpp_inverse": PYRAMID[16] / 64 + PYRAMID[8] / 64 + PYRAMID[4] / 16 + PYRAMID[2] / 4,
    }
    torch.testing.assert_close(pooling(pool)(STEP), expected[pool])
    torch.testing.assert_close(pooling(pool)(-STEP), -expected[pool])


class MapsGiven(AEFTNet):
    """A classifier whose class maps are given instead of an image."""

    def class_maps(self, cam):
        return cam


@pytest.mark.parametrize(
    ("pool", "logit"),
    [
        ("gap", 4.0),  # half of the map is 8
        ("2", 8 * (4.5 + 5.5 + 6.5 + 7.5 + 4 * 8) / 16),  # mean of cam P_2
        ("16", 8 * 8 / 2),
        ("avg", 8 * (24 + 28 + 30 + 32 + 4 * 32) / 4 / 16),
    ],
)
def test_logits_of_poolings_by_hand(pool, logit):
    net = MapsGiven(ResNet38d(1 / 16), 1, pool)
    cam, logits, gpp = net(STEP)
    assert cam is STEP and gpp.shape == STEP.shape and logits.item() == pytest.approx(logit)
    assert net(-STEP)[1].item() == pytest.approx(-logit)


@pytest.mark.parametrize("pool", POOLS)
def test_pooling_is_float32_under_autocast_too(pool):
    """Of class maps that came in bfloat16: the gates' convolutions are not rounded a second time."""
    torch.manual_seed(0)
    net, cam = MapsGiven(ResNet38d(1 / 16), 5, pool), torch.randn(2, 5, 20, 20).bfloat16()
    expected = net(cam.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = net(cam)
    assert all(out.dtype == torch.float32 and torch.equal(out, full) for out, full in zip(mixed, expected))


def test_new_layers_start_as_released():
    """Both 1 x 1 convolutions: uniform, Xavier's bound sqrt(6 / (in + out))."""
    net = AEFTNet(ResNet38d(1 / 16))
    for layer in (net.fc8, net.fc9):
        bound = math.sqrt(6 / (layer.in_channels + layer.out_channels))
        assert 0.99 * bound < layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)


@pytest.mark.parametrize("pool", POOLS)
def test_poolings_without_gates_have_no_entries(pool):
    names = set(AEFTNet(ResNet38d(1 / 16), pool=pool).released_state())
    everything = set(state_shapes("aeft_gpp"))
    assert names == {k for k in everything if pool.startswith("gpp") or not k.startswith("gconv")}


@pytest.mark.parametrize("pool", ["3", "32", "", "max"])
def test_other_poolings_are_refused(pool):
    with pytest.raises(UserError, match="there are gap 2 4 8 16 avg gpp_inverse gpp"):
        AEFTNet(ResNet38d(1 / 16), pool=pool)


def test_maxnorm_by_hand():
    c = torch.tensor([[[[-3.0, 1.0], [2.0, 5.0]]]])  # ReLU: 0 1 2 5
    expected = torch.tensor([[[[0.0, (1 - 1e-5) / 5.00001], [(2 - 1e-5) / 5.00001, (5 - 1e-5) / 5.00001]]]])
    torch.testing.assert_close(maxnorm(c), expected)
    assert maxnorm(torch.full((1, 1, 3, 3), 7.0)).abs().max() == 0


def test_erase_removes_the_peak_and_keeps_the_rest_in_proportion():
    losses = TripletErasing(high=0.6)
    cam = torch.tensor([[[[0.0, 0.25], [0.5, 1.0]], [[9.0, 0.0], [0.0, 0.0]]]])  # class 1 is not in the image
    image = torch.ones(1, 3, 2, 2)
    positive = losses.erase(image, cam, torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(positive[0, 0], torch.tensor([[0.0, 0.25], [0.5, 0.0]]), atol=2e-5, rtol=0)


def test_erase_passes_gradients_to_the_class_maps():
    cam = torch.rand(1, 1, 4, 4, requires_grad=True)
    TripletErasing().erase(torch.ones(1, 3, 8, 8), cam, torch.ones(1, 1)).sum().backward()
    assert cam.grad.abs().sum() > 0


def test_partner_shares_no_class_and_every_partner_occurs():
    label = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 1], [1, 1, 1]])
    seen = {k: set() for k in range(4)}
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        anchors, partners = class_disjoint_partner(label, generator)
        assert anchors.tolist() == [0, 1, 2]  # the last image has every class: it is left out
        for a, p in zip(anchors.tolist(), partners.tolist()):
            assert (label[a] * label[p]).sum() == 0
            seen[a].add(p)
    assert seen == {0: {1, 2}, 1: {0}, 2: {0}, 3: set()}


def test_masked_mean_by_hand():
    values = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]]]])
    mask = torch.tensor([[[[True, False], [False, True]], [[False, False], [False, False]]]])
    assert masked_mean(values, mask).tolist() == [[2.5, 0.0]]


def repel_of(embeddings, margin):
    """TripletErasing.repel where anchors are `embeddings` and every negative is 0."""
    return TripletErasing(margin=margin).repel(embeddings, torch.zeros_like(embeddings), torch.eye(len(embeddings), 8))


def test_repel_needs_more_than_four_hard_pairs():
    distances = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.9, 0.9])
    embeddings = torch.zeros(6, 8)
    embeddings[:, 0] = distances.sqrt()
    assert repel_of(embeddings, margin=0.5).item() == 0  # four hard ones
    embeddings[4, 0] = 0.45**0.5
    expected = np.mean([0.4, 0.3, 0.2, 0.1, 0.05])
    assert repel_of(embeddings, margin=0.5).item() == pytest.approx(expected, rel=1e-4)


def test_classification_sees_the_first_samples_only():
    losses = TripletErasing(cls_batch=2)
    logits, label = torch.randn(5, 3), torch.randint(0, 2, (5, 3)).float()
    expected = F.binary_cross_entropy_with_logits(logits[:2], label[:2])
    torch.testing.assert_close(losses.classify(logits, label), expected)


def test_terms_add_up_and_the_warm_up_has_one():
    net = AEFTNet(ResNet38d(1 / 16)).eval()
    image, label = torch.randn(6, 3, 32, 32), torch.eye(6, 20)
    terms = TripletErasing(margin=50.0)(net, image, label)
    assert min(terms[k].item() for k in ("cls", "attract", "repel")) > 0
    assert terms["total"].item() == pytest.approx(sum(terms[k].item() for k in ("cls", "attract", "repel")))
    warm_up = TripletErasing()(net, image, label, erase=False)
    assert warm_up["total"].item() == warm_up["cls"].item() and warm_up["attract"].item() == 0


class OutputsGiven(nn.Module):
    """A network that gives these outputs, one triple a forward, and keeps the images."""

    def __init__(self, *outputs):
        super().__init__()
        self.outputs, self.images = list(outputs), []

    def forward(self, image):
        self.images.append(image)
        return self.outputs[len(self.images) - 1]


def outputs(cam, logits, gpp):
    """Of one image and two classes; cam, gpp: their values everywhere on 2 x 2 cells."""
    cam, gpp = (torch.tensor([v])[:, :, None, None].expand(1, 2, 2, 2) for v in (cam, gpp))
    return cam, torch.tensor([logits]), gpp


FIRST = outputs(cam=[3.0, 9.0], logits=[0.0, 0.0], gpp=[1.0, 9.0])
ERASED = outputs(cam=[1.0, 9.0], logits=[0.0, math.log(3)], gpp=[0.5, 9.0])


def terms_of(**options):
    """The terms of one image of class 0 with these outputs -> (terms, number of forwards)."""
    net = OutputsGiven(FIRST, ERASED)
    terms = TripletErasing(**options)(net, torch.ones(1, 3, 2, 2), torch.tensor([[1.0, 0.0]]))
    return {k: v.item() for k, v in terms.items()}, len(net.images)


def test_rigid_is_the_classification_of_the_erased_image_by_hand():
    terms, forwards = terms_of(attract="rigid")
    bce = (math.log(2) + math.log(4)) / 2  # class 0: -log 1/2; class 1, absent: -log(1 - 3/4)
    assert terms["attract"] == pytest.approx(0.2 * bce) and forwards == 2
    assert terms["total"] == pytest.approx(math.log(2) + 0.2 * bce)


@pytest.mark.parametrize(("metric", "distance"), [("gpp", 0.5), ("cam", 2.0)])
def test_attract_compares_the_metrics_maps_by_hand(metric, distance):
    terms, forwards = terms_of(metric=metric)
    assert terms["attract"] == pytest.approx(0.2 * distance / 2) and forwards == 2  # the absent class counts as 0


def test_regions_of_the_metrics_maps_by_hand():
    cam = torch.tensor([[[[0.0, 4.0], [1.0, 2.0]]]])  # maxnorm: 0, 1, 1/4, 1/2; the peak is just below 1
    gpp = torch.tensor([[[[8.0, 1.0], [4.0, -8.0]]]])
    net, label = OutputsGiven((cam, torch.zeros(1, 1), gpp)), torch.ones(1, 1)
    taken = {}
    for metric in ("gpp", "cam"):
        losses = TripletErasing(attract="none", metric=metric, low=0.3)
        losses.repel = lambda anchor, negative, *_, m=metric: taken.update({m: (anchor, negative)}) or torch.zeros(())
        losses(net, torch.ones(1, 3, 2, 2), label)
        net.images.clear()
    assert [e.item() for e in taken["gpp"]] == pytest.approx([(1 + 0.5) / 2, (1 + 1 / 8 + 0.5 - 1) / 4], rel=1e-4)
    assert [e.item() for e in taken["cam"]] == pytest.approx([(0 + 0.25) / 2, (0 + 1 + 0.25 + 0.5) / 4], rel=1e-4)


# ---------------------------------------------------------------- photographs that show none of the classes


def test_an_image_without_a_class_is_a_partner_and_no_anchor():
    label = torch.tensor([[1.0, 0], [1, 1], [0, 0], [0, 0]])
    seen = {0: set(), 1: set()}
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        anchors, partners = class_disjoint_partner(label, generator)
        assert anchors.tolist() == [0, 1]
        for a, p in zip(anchors.tolist(), partners.tolist()):
            seen[a].add(p)
    assert seen == {0: {2, 3}, 1: {2, 3}}
    assert class_disjoint_partner(torch.zeros(3, 2))[0].tolist() == []


def test_the_losses_of_a_batch_with_an_image_without_a_class_by_hand():
    """Five images of class 0 with the same maps, then one of no class; all six have class 1 in their maps, no label."""
    cam = torch.tensor([[[0.0, 4.0], [1.0, 2.0]], [[9.0, 0.0], [0.0, 0.0]]])
    gpp = torch.tensor([[[8.0, 1.0], [4.0, -8.0]], [[1.0, 1.0], [1.0, 1.0]]])
    other = torch.tensor([[[-2.0, -2.0], [2.0, -4.0]], [[5.0, 5.0], [5.0, 5.0]]])  # of the image of no class
    maps = torch.stack([gpp] * 5 + [other])
    logits = torch.tensor([[0.0, 0.0]] * 5 + [[math.log(3), -math.log(3)]])
    label = torch.tensor([[1.0, 0.0]] * 5 + [[0.0, 0.0]])
    net = OutputsGiven((torch.stack([cam] * 6), logits, maps), (torch.stack([cam] * 6), logits, maps / 2))
    terms = TripletErasing(low=0.3)(net, torch.ones(6, 3, 2, 2), label)
    # classification: every cell of the five is -log 1/2; of the last -log(1 - 3/4) and -log(1 - 1/4)
    cls = (10 * math.log(2) + math.log(4) + math.log(4 / 3)) / 12
    assert terms["cls"].item() == pytest.approx(cls)
    # attract: mean ReLU(gpp) of class 0 is (8 + 1 + 4)/4 and half of that; the last image has 0 in both, and counts
    assert terms["attract"].item() == pytest.approx(0.2 * 5 * (13 / 8) / 12)
    # nothing of the last image is kept where it is erased
    assert net.images[1][5].abs().max() == 0 and net.images[1][0].abs().max() > 0
    # repel: each of the five has the last image as negative, compared in the anchor's class 0 alone
    anchor, negative = (1 + 0.5) / 2, (-2 - 2 + 2 - 4) / 4 / 4
    distance = (anchor - negative) ** 2
    assert distance > 0.5 and terms["repel"].item() == 0  # none is hard
    net.images.clear()
    terms = TripletErasing(low=0.3, margin=2.0)(net, torch.ones(6, 3, 2, 2), label)
    assert terms["repel"].item() == pytest.approx(0.15 * (2 - distance), rel=1e-4)


def test_repel_reaches_the_image_without_a_class():
    """Its own label would embed it as 0 and teach nothing about it."""
    torch.manual_seed(0)
    cam, maps = torch.rand(6, 2, 4, 4), torch.randn(6, 2, 4, 4, requires_grad=True)
    label = torch.tensor([[1.0, 0]] * 5 + [[0, 0]])
    losses = TripletErasing(margin=50.0)
    losses.repel(*losses.region_embeddings(cam, maps, label), label).backward()
    assert maps.grad[5, 0].abs().sum() > 0 and maps.grad[5, 1].abs().sum() == 0


@pytest.mark.parametrize("repel", [True, False])
def test_without_attract_nothing_is_erased(repel):
    terms, forwards = terms_of(attract="none", repel=repel)
    assert forwards == 1 and terms["attract"] == 0 and terms["total"] == terms["cls"]


def test_without_repel_the_other_terms_stay():
    net = AEFTNet(ResNet38d(1 / 16)).eval()
    image, label = torch.randn(6, 3, 32, 32), torch.eye(6, 20)
    whole, part = (TripletErasing(margin=50.0, repel=repel)(net, image, label) for repel in (True, False))
    assert whole["repel"] > 0 and part["repel"] == 0
    assert part["cls"] == whole["cls"] and part["attract"] == whole["attract"]


@pytest.mark.parametrize("options", [{"attract": "hard"}, {"metric": "logits"}])
def test_unknown_terms_are_refused(options):
    with pytest.raises(ValueError, match="'hard'|'logits'"):
        TripletErasing(**options)
