"""Rows of `make bench`: stages that work on score files - threshold sweep, dense CRF, disk."""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tests.bench.inputs import scene
from tests.bench.measure import compare
from tests.bench.reference import crf_with_alpha, threshold_counts
from tool.crf_pool import CrfPool
from tool.files import read_scores, write_scores
from tool.images import label_image, open_mask, save_image
from tool.metrics import THRESHOLDS, ThresholdSweep

LABELS = 21
ALPHAS = (2, 19, 21)


@contextmanager
def stored_scenes(count, **size):
    """Maps and masks of `count` scenes as files -> (paths of .npy, paths of .png)."""
    with tempfile.TemporaryDirectory() as folder:
        maps = [Path(folder) / f"{k}.npy" for k in range(count)]
        masks = [path.with_suffix(".png") for path in maps]
        for k in range(count):
            _, truth, cams = scene(k, **size)
            write_scores(maps[k], cams)
            save_image(masks[k], label_image(truth))
        yield maps, masks


def sweep_counts(maps, masks):
    """Ours: one pass over the files -> thresholds x 3 x labels: pixels hit, predicted and true."""
    sweep = ThresholdSweep(LABELS)
    for map_path, mask_path in zip(maps, masks):
        sweep.add(open_mask(mask_path, LABELS), read_scores(map_path))
    counts = sweep.confusions()
    return np.stack([np.diagonal(counts, axis1=1, axis2=2), counts.sum(1), counts.sum(2)], axis=1)


def threshold_sweep(repetitions, count=100, **size):
    with stored_scenes(count, **size) as files:
        return compare(
            "threshold_sweep", lambda: sweep_counts(*files), lambda: threshold_counts(*files, THRESHOLDS),
            lambda a, b: np.abs(a - b).max(), f"25 thresholds, {count} images 375 x 500 from disk, one process each",
            repetitions, warm_up=False,
        )


def pooled_crf(scenes, folder, workers):
    """Ours: worker processes, one lattice for all alphas -> files folder/alpha_image.npy."""
    with CrfPool(workers) as pool:
        for k, (image, cams) in enumerate(scenes):
            pool.submit(image, cams, {alpha: folder / f"{alpha}_{k}.npy" for alpha in ALPHAS}, 10)
    return folder


def crf_one_by_one(scenes, folder):
    """Published: one process, a lattice for every alpha -> the same files."""
    for alpha in ALPHAS:
        for k, (image, cams) in enumerate(scenes):
            np.save(folder / f"{alpha}_{k}.npy", crf_with_alpha(image, cams, alpha))
    return folder


def stored_difference(ours, theirs):
    """Largest difference of the score files in two folders."""
    largest = 0.0
    for path in theirs.iterdir():
        a, b = read_scores(ours / path.name), read_scores(path)
        if a.keys() != b.keys():
            raise RuntimeError(f"{path.name}: labels {sorted(a)} and {sorted(b)}")
        largest = max(largest, *(np.abs(a[k] - b[k]).max() for k in a))
    return largest


def crf_3_alphas(repetitions, count=20, **size):
    scenes = [(image, cams) for image, _, cams in (scene(k, **size) for k in range(count))]
    workers = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        return compare(
            "crf_3_alphas", lambda: pooled_crf(scenes, Path(one), workers), lambda: crf_one_by_one(scenes, Path(other)),
            stored_difference, f"alphas 2 19 21, {count} images 375 x 500, written to disk; {workers} worker processes",
            repetitions, warm_up=False,
        )


ROWS = {"threshold_sweep": threshold_sweep, "crf_3_alphas": crf_3_alphas}
