"""Rows of `make bench` with the networks at full width, random weights: maps, pseudo labels, a training step."""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from engine.training import build_optimizer
from models.aeft import AEFTNet
from models.affinity import AffinityNet
from models.resnet38d import ResNet38d
from models.triplet import TripletErasing
from tests.bench.inputs import scene
from tests.bench.measure import compare, interleaved, row
from tests.bench.reference import cam_of_views, pseudo_labels
from tool.affinity_labels import pool_scores
from tool.cam import multi_scale_cam
from tool.pairs import pair_affinity
from tool.pseudo_labels import refine_labels, stack_scores, walk_scores
from voc12.transforms import InferenceViews, normalise

CLASSES = 20
DUP = 19


def autocast():
    return torch.autocast("cpu", dtype=torch.bfloat16)


def largest_difference(a, b):
    return (a - b).abs().max().item()


# ---------------------------------------------------------------- class activation maps


def classifier(image, truth, classes, width=1.0):
    """A random trunk with class weights that see something: a class is the features of its object less the others'.

    With random class weights a map would be mostly rounding error, scaled up to 1.
    """
    torch.manual_seed(0)
    net = AEFTNet(ResNet38d(width), CLASSES).eval()
    with torch.no_grad():
        features = F.relu(net.fc8(net.trunk(normalise(Image.fromarray(image))[None])))[0].flatten(1)  # 256 x cells
        common = F.normalize(features.mean(1), dim=0)
        for c in classes:
            inside = pool_scores(torch.from_numpy((truth == c + 1)[None])).flatten()
            weight = features @ inside / inside.sum() - features @ (1 - inside) / (1 - inside).sum()
            weight = weight - (weight @ common) * common  # about 0 on an average cell
            net.fc9.weight[c] = F.normalize(weight, dim=0)[:, None, None]
    return net


def cam_forms(net_width=1.0, **size):
    """Our maps with bf16, ours in float32, and eight views one by one: three functions -> C x H x W."""
    image, truth, cams = scene(2, **size)
    label = torch.zeros(CLASSES)
    label[list(cams)] = 1
    views = InferenceViews()(Image.fromarray(image))
    net = classifier(image, truth, cams, net_width)
    fast_net = copy.deepcopy(net).to(memory_format=torch.channels_last)

    def fast():
        with autocast():
            return multi_scale_cam(fast_net, views, label, truth.shape)

    single = [view[None] for pair in views for view in pair]
    return (
        fast,
        lambda: multi_scale_cam(net, views, label, truth.shape),
        lambda: cam_of_views(net, single, label, truth.shape),
    )


def best_labels(cam, threshold=0.2):
    """Label of each pixel of C x H x W maps, background below the threshold."""
    return torch.where(cam.amax(0) > threshold, cam.argmax(0) + 1, 0)


def multi_scale_cam_rows(repetitions):
    forms = cam_forms()
    for form in cam_forms(height=64, width=64):
        form()  # libraries load
    (fast, exact, published), (a, b, c) = interleaved(forms, repetitions, warm_up=False)
    same = (best_labels(a) == best_labels(c)).float().mean().item()
    note = "375 x 500, 4 scales with mirrors, full width"
    return [
        row(
            "multi_scale_cam",
            fast,
            published,
            largest_difference(a, c),
            f"{note}, bf16 against float32; best label equal on {100 * same:.2f} % of pixels",
            images=1,
        ),
        row("multi_scale_cam_fp32", exact, published, largest_difference(b, c), f"{note}, float32 both", images=1),
    ]


# ---------------------------------------------------------------- pseudo labels


def affinity_net(image, width=1.0, distance=0.1):
    """A random net, its last layer scaled so that the mean distance of two cells of a pair on `image` is `distance`.

    Left as they are, random features lie so far apart that nothing would walk.
    """
    torch.manual_seed(0)
    net = AffinityNet(width).eval()
    with torch.no_grad():
        levels = net.trunk.levels(normalise(Image.fromarray(image))[None])
        joined = torch.cat([F.elu(f(x)) for f, x in zip((net.f8_3, net.f8_4, net.f8_5), levels)], dim=1)
        before = net.f9(joined)  # of the last ELU
        low, high = -30.0, 30.0  # logarithm of the factor
        for _ in range(40):
            factor = (low + high) / 2
            mean = -torch.log(pair_affinity(F.elu(before * 2**factor), net.radius)).mean()
            low, high = (low, factor) if mean > distance else (factor, high)
        net.f9.weight *= 2**factor
    return net


def label_forms(net_width=1.0, **size):
    """Pseudo labels of one image: ours with bf16, ours in float32, published; three functions -> H x W uint8."""
    image, _, cams = scene(2, **size)
    net = affinity_net(image, net_width)
    fast_net = copy.deepcopy(net).to(memory_format=torch.channels_last)
    photo = Image.fromarray(image)

    def ours(net):
        keys, scores = stack_scores(cams, DUP)
        return refine_labels(image, keys, walk_scores(net, normalise(photo), scores, torch.device("cpu")))

    def fast():
        with autocast():
            return ours(fast_net)

    return fast, lambda: ours(net), lambda: pseudo_labels(net, image, cams, DUP)


def infer_aff_image(repetitions):
    (fast, exact, published), (a, b, c) = interleaved(label_forms(), repetitions)
    note = "375 x 500, full width, network to labels; difference: share of other pixels"
    return [
        row("infer_aff_image", fast, published, np.mean(a != c), f"{note}; bf16 against float32", images=1),
        row("infer_aff_image_fp32", exact, published, np.mean(b != c), f"{note}; float32 both", images=1),
    ]


# ---------------------------------------------------------------- training step


def train_forms(net_width=1.0, batch=2, side=160, memory_format=torch.contiguous_format):
    """A triplet step, bf16 and float32: two functions -> loss."""
    label = torch.zeros(batch, CLASSES)
    image = torch.stack([normalise(Image.fromarray(scene(k, side, side)[0])) for k in range(batch)])
    label[torch.arange(batch), torch.arange(batch)] = 1
    torch.manual_seed(0)
    exact_net = AEFTNet(ResNet38d(net_width), CLASSES)
    exact_net.freeze().train()
    for module in exact_net.modules():
        if isinstance(module, torch.nn.Dropout2d):
            module.p = 0.0
    with torch.no_grad():  # class maps of size 1, as a trained net's; random ones would overflow
        exact_net.fc9.weight /= exact_net.class_maps(image).abs().amax((0, 2, 3)).view(-1, 1, 1, 1)
    fast_net = copy.deepcopy(exact_net).to(memory_format=memory_format)
    losses = TripletErasing()

    def form(net, amp):
        optimizer = build_optimizer("sgd", net.param_groups(1e-6, 5e-4, 1.0), 5e-4)  # the net stays as it is

        def step():
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
                total = losses(net, image, label, generator=torch.Generator().manual_seed(0))["total"]
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            optimizer.step()
            return total.item()

        return step

    return form(fast_net, True), form(exact_net, False)


def train_step(repetitions):
    return compare(
        "train_step",
        *train_forms(),
        lambda a, b: abs(a - b) / abs(b),
        "triplet step, full width, batch 2, 160 x 160, bf16 against float32; difference: of the first loss, relative",
        repetitions,
        images=2,
    )


ROWS = {"multi_scale_cam": multi_scale_cam_rows, "infer_aff_image": infer_aff_image, "train_step": train_step}
