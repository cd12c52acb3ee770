"""Pixel-adaptive refinement against plain loops over pixels, and what it does on a drawn image."""

import numpy as np
import pytest
import torch

from tool import par
from tool.crf import background_score


def test_affinity_and_steps_against_loops(monkeypatch):
    monkeypatch.setattr(par, "DILATIONS", (1, 3))
    rng = np.random.default_rng(0)
    image, maps = rng.uniform(0, 255, (3, 5, 6)).astype(np.float32), rng.uniform(0, 1, (2, 5, 6)).astype(np.float32)
    steps = [(d * y, d * x) for d in (1, 3) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]
    far = np.hypot(*np.array(steps).T)
    place = np.exp(-((far / far.std(ddof=1) / 0.3) ** 2))
    affinity, expected = np.zeros((16, 5, 6)), np.zeros((2, 5, 6))
    for y, x in np.ndindex(5, 6):
        at = [(min(max(y + a, 0), 4), min(max(x + b, 0), 5)) for a, b in steps]
        around = np.array([image[:, a, b] for a, b in at])
        like = np.exp(-(((around - image[:, y, x]) / around.std(0, ddof=1) / 0.3) ** 2).mean(1))
        affinity[:, y, x] = (like / like.sum() + 0.01 * place / place.sum()) / 1.01
        expected[:, y, x] = sum(share * maps[:, a, b] for share, (a, b) in zip(affinity[:, y, x], at))
    found = par.colour_affinity(torch.from_numpy(image))
    np.testing.assert_allclose(found.numpy(), affinity, atol=1e-4)
    np.testing.assert_allclose(par.diffuse(image.transpose(1, 2, 0), maps, 1), expected, atol=1e-4)


@pytest.fixture
def disk():
    """A red disk on green with some noise -> (image of 300 x 400, where the disk is)."""
    y, x = np.mgrid[:300, :400]
    inside = (y - 140) ** 2 + (x - 220) ** 2 < 90**2
    noise = np.random.default_rng(0).integers(0, 30, (300, 400, 3))
    return (np.where(inside[..., None], [200, 40, 40], [40, 180, 60]) + noise).astype(np.uint8), inside


def test_blobs_become_outlines_at_every_power(disk):
    image, inside = disk
    y, x = np.mgrid[:300, :400]
    cam = np.exp(-((y - 130) ** 2 + (x - 200) ** 2) / 2 / 70**2).astype(np.float32)  # beside the disk, and soft

    def iou(found):
        return (found & inside).sum() / (found | inside).sum()

    results = dict(par.par_of_large(image, {4: cam}, [1, 2, 5]))
    assert list(results) == [1, 2, 5]
    for alpha, scores in results.items():
        assert list(scores) == [0, 5] and all(one.shape == (300, 400) for one in scores.values())
        before, after = cam > background_score(cam[None], alpha), scores[5] > scores[0]
        assert iou(after) > iou(before)
    assert max(iou(scores[5] > scores[0]) for scores in results.values()) > 0.9
    assert (results[5][5] > results[5][0]).sum() > (results[1][5] > results[1][0]).sum()


def test_no_class_and_a_flat_image():
    flat = np.full((20, 30, 3), 7, np.uint8)
    ((alpha, scores),) = par.par_of_large(flat, {}, [4])
    assert alpha == 4 and list(scores) == [0] and (scores[0] > 0.99).all()
    ((_, scores),) = par.par_of_large(flat, {0: np.full((20, 30), 0.5, np.float32)}, [1])
    assert np.isfinite(scores[1]).all() and np.allclose(scores[1], 0.5)
