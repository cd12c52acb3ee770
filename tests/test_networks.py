"""The networks against values of the released code, and properties that follow from the paper."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_inputs import golden_image, golden_state, load, state_shapes
from torch import nn

from models.aeft import AEFTNet
from models.checkpoint import released_names
from models.gpp import Gate, GatedPyramidPooling, class_logits
from models.resnet38d import Conv1x1, ResNet38d, count_parameters
from models.triplet import TripletErasing, class_disjoint_partner, masked_mean
from tool.cam import maxnorm


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
