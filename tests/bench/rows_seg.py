"""Rows of `make bench` with the segmentation network at full width, random weights: scores of all views of an image."""

import copy

import torch
from PIL import Image

from engine.recipes import TEST_RECIPES
from models.deeplab import DeepLab
from models.resnet38d import ResNet38d
from tests.bench.inputs import scene
from tests.bench.measure import interleaved, row
from tests.bench.reference import scores_of_views
from tests.bench.rows_networks import autocast, largest_difference
from tool.segmentation import multi_scale_scores
from voc12.transforms import InferenceViews, normalise

LABELS = 21
SPREAD = 4.0  # standard deviation of a label's logits


def segmentation_forms(net_width=1.0, **size):
    """Our scores with bf16, ours in float32, and twelve views one by one: three functions -> L x H x W."""
    photo = Image.fromarray(scene(2, **size)[0])
    size = photo.size[::-1]
    torch.manual_seed(0)
    net = DeepLab(ResNet38d(net_width), LABELS).eval()
    with torch.no_grad():  # no label wins everywhere, and none by a rounding error
        logits = net(normalise(photo)[None])
        factor = SPREAD / logits.std((0, 2, 3))
        net.classifier.weight *= factor[:, None, None, None]
        net.classifier.bias -= logits.mean((0, 2, 3)) * factor
    views = InferenceViews(TEST_RECIPES["default"]["scales"])(photo)
    fast_net = copy.deepcopy(net).to(memory_format=torch.channels_last)

    def fast():
        with autocast():
            return multi_scale_scores(fast_net, views, size)

    single = [view[None] for pair in views for view in pair]
    return fast, lambda: multi_scale_scores(net, views, size), lambda: scores_of_views(net, single, size)


def segmentation_rows(repetitions):
    forms = segmentation_forms(height=188, width=250)
    for form in segmentation_forms(height=64, width=64):
        form()  # libraries load
    (fast, exact, published), (a, b, c) = interleaved(forms, repetitions, warm_up=False)
    same = (a.argmax(0) == c.argmax(0)).float().mean().item()
    note = "188 x 250, 6 scales with mirrors, full width"
    text = f"{note}, bf16 against float32; best label equal on {100 * same:.2f} % of pixels"
    return [
        row("segmentation", fast, published, largest_difference(a, c), text, images=1),
        row("segmentation_fp32", exact, published, largest_difference(b, c), f"{note}, float32 both", images=1),
    ]


ROWS = {"segmentation": segmentation_rows}
