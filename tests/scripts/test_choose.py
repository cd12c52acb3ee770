"""choose.py on drawn images with made maps: what is chosen, what later stages make of it, what is refused."""

import numpy as np
import pytest
from stage_runs import read_log  # noqa: F401

from tool.io.files import read_list
from tool.io.images import open_mask
from tool.io.scores import write_scores

POINT = 0.3  # of the made maps: object above it, background below


@pytest.fixture(scope="module")
def made(toy, tmp_path_factory):
    """Experiment "n" whose maps are the true masks, objects between 0.3 and 1, noise below -> folder of experiments."""
    folder, rng = tmp_path_factory.mktemp("made"), np.random.default_rng(0)
    for image_id in read_list(toy / "train.txt"):
        mask = open_mask(toy / "SegmentationClass" / f"{image_id}.png", 21)
        inside = {k - 1: mask == k for k in np.unique(mask) if 0 < k < 255}
        noise = rng.uniform(0, 1, mask.shape)
        maps = {int(k): np.where(one, POINT + 0.01 + 0.5 * noise, (POINT - 0.01) * noise) for k, one in inside.items()}
        (folder / "n/dict").mkdir(parents=True, exist_ok=True)
        write_scores(folder / "n/dict" / f"{image_id}.npy", maps)
    return folder
