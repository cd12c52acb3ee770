"""The classifier against values of the released code; what is frozen, and what trains at which rate."""

import copy

import numpy as np
import pytest
import torch
from golden_inputs import golden_image, golden_state, load, state_shapes
from torch import nn

from models.aeft import AEFTNet
from models.checkpoint import released_names
from models.resnet38d import ResNet38d, count_parameters, running_statistics_kept
from models.triplet import TripletErasing


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


OTHER_MARGINS = [pytest.param(f"full_M{margin}", marks=pytest.mark.slow) for margin in (6.0, 8.0)]


@pytest.mark.parametrize("key", ["warmup", "full_M6.25", *OTHER_MARGINS])
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


def test_recomputed_activations_change_nothing():
    """Same losses, gradients and running statistics with and without --checkpoint_activations."""
    torch.manual_seed(0)
    image = torch.randn(2, 3, 48, 40)
    results = []
    for recompute in (False, True):
        torch.manual_seed(1)
        net = AEFTNet(ResNet38d(1 / 16)).train()
        net.trunk.checkpoint_activations = recompute
        torch.manual_seed(2)  # dropout
        with running_statistics_kept(net):
            logits = net(image)[1]
        (logits.sum() + net(image)[1].square().sum()).backward()
        results.append(([p.grad for p in net.parameters() if p.requires_grad], list(net.buffers())))
    for ours, theirs in zip(*results):
        for a, b in zip(ours, theirs):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert any(b.abs().max() > 0 for b in results[0][1])


def test_a_frozen_network_trains_no_batchnorm_and_computes_in_double():
    net = AEFTNet(ResNet38d(width=1 / 16, dropout=(0.0, 0.0)), num_classes=3).freeze().train()
    assert not [name for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d) and module.training]
    image = torch.randn(2, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    double = copy.deepcopy(net).double()(image.double())
    for value, exact in zip(net(image), double):
        assert value.dtype == torch.float32 and exact.dtype == torch.float64
        torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=1e-4)
