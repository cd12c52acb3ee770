"""Segmentation scores of several views, and their CRF."""

import numpy as np
import pytest
import torch
from golden_inputs import draw
from PIL import Image
from pydensecrf.densecrf import DenseCRF2D
from torch import nn

from models.deeplab import DeepLab
from models.resnet38d import ResNet38d
from tool.segmentation import label_map, mean_with_maps, multi_scale_scores, refine_scores
from voc12.transforms import InferenceViews, normalise

TINY = 1 / 16


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


def test_the_mean_with_maps_by_hand():
    """Labels 0, 2 and 5; no map of 5. Background (1 - 0.5)^2 = 0.25 beside 0.5: a third and two thirds."""
    scores = np.full((3, 1, 2), 1 / 3, np.float32)
    found = mean_with_maps(scores, {1: np.array([[0.5, 1.0]], np.float32)}, [0, 2, 5], 2)
    maps = [[[1 / 3, 0]], [[2 / 3, 1]], [[0, 0]]]
    np.testing.assert_allclose(found, (scores + np.array(maps)) / 2, rtol=1e-6)


def test_crf_has_the_recipes_settings():
    photo, label = draw(2, side=40)
    scores = np.random.default_rng(0).dirichlet([1, 1, 1], (40, 40)).transpose(2, 0, 1).astype(np.float32)
    crf = DenseCRF2D(40, 40, 3)
    crf.setUnaryEnergy(np.ascontiguousarray(-np.log(scores.clip(1e-5)).reshape(3, -1)))
    crf.addPairwiseGaussian(sxy=4, compat=3)
    crf.addPairwiseBilateral(sxy=83, srgb=5, rgbim=np.array(photo, order="C"), compat=3)
    expected = np.array(crf.inference(10)).reshape(3, 40, 40)
    np.testing.assert_allclose(refine_scores(np.array(photo), scores), expected, atol=1e-5)
