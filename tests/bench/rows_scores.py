"""Rows of `make bench`: stages that work on score files - threshold sweep, dense CRF, disk."""

import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from engine.background import Background
from engine.jobs import refine_maps
from tests.bench.inputs import scene
from tests.bench.measure import compare, interleaved, row
from tests.bench.reference import boundary_counts, crf_with_alpha, threshold_counts
from tool.crf import crf_of_large, crf_with_alphas
from tool.io.images import label_image, open_mask, save_image
from tool.io.scores import read_scores, write_scores
from tool.metrics import THRESHOLDS, ThresholdSweep, areas, best_labels, confusion, mean_ious
from tool.workers import usable_cores

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


def sweep_files(maps, masks, boundaries=False):
    """Ours: one pass over the files for all thresholds."""
    sweep = ThresholdSweep(LABELS, boundaries=boundaries)
    for map_path, mask_path in zip(maps, masks):
        sweep.add(open_mask(mask_path, LABELS), read_scores(map_path))
    return sweep


def sweep_counts(maps, masks):
    """thresholds x 3 x labels: pixels hit, predicted and true."""
    return np.stack(areas(sweep_files(maps, masks).confusions()), axis=1)


def threshold_sweep(repetitions, count=100, **size):
    with stored_scenes(count, **size) as files:
        return compare(
            "threshold_sweep",
            lambda: sweep_counts(*files),
            lambda: threshold_counts(*files, THRESHOLDS),
            lambda a, b: np.abs(a - b).max(),
            f"25 thresholds, {count} images 375 x 500 from disk, one process each",
            repetitions,
            warm_up=False,
            images=count,
        )


def boundary_sweep(repetitions, count=20, **size):
    with stored_scenes(count, **size) as files:
        forms = (
            lambda: sweep_files(*files, boundaries=True).boundary,
            lambda: boundary_counts(*files, THRESHOLDS),
            lambda: sweep_files(*files),
        )
        (ours, published, plain), (counts, expected, _) = interleaved(forms, repetitions, warm_up=False)
    return row(
        "boundary_sweep",
        ours,
        published,
        np.abs(counts - expected).max(),
        f"25 thresholds with boundary IoU, {count} images; {ours / plain:.1f} times the sweep without; "
        "published: boundaries alone, mask by mask, files read once",
        images=count,
    )


def pooled_crf(scenes, folder, workers):
    """Ours: worker processes, one lattice for all alphas -> files folder/alpha_image.npy."""
    with Background(processes=workers) as pool:
        for k, (image, cams) in enumerate(scenes):
            files = {alpha: (folder / f"{alpha}_{k}.npy", "") for alpha in ALPHAS}
            pool.submit(refine_maps, image, cams, files, False, partial(crf_of_large, max_side=0))
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
    workers = usable_cores()
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        return compare(
            "crf_3_alphas",
            lambda: pooled_crf(scenes, Path(one), workers),
            lambda: crf_one_by_one(scenes, Path(other)),
            stored_difference,
            f"alphas 2 19 21, {count} images 375 x 500, written to disk; {workers} worker processes",
            repetitions,
            warm_up=False,
            images=count,
        )


def write_folders(results, folder, compressed):
    """results: a list of {folder name: score maps} -> files folder/name/image.npy."""
    for k, maps in enumerate(results):
        for name, scores in maps.items():
            write_scores(folder / name / f"{k}.npy", scores, compressed)
    return folder


def folder_mious(folder, truths):
    """mIoU over present classes, in percent, of every threshold of dict/ and of every CRF folder -> array."""
    sweep = ThresholdSweep(LABELS)
    crf = {path.name: np.zeros((LABELS, LABELS), np.int64) for path in sorted(folder.iterdir()) if path.name != "dict"}
    for k, truth in enumerate(truths):
        sweep.add(truth, read_scores(folder / "dict" / f"{k}.npy"))
        for name, counts in crf.items():
            counts += confusion(truth, best_labels(read_scores(folder / name / f"{k}.npy")), LABELS)
    return np.array([mean_ious(counts)["miou_present"] for counts in (*sweep.confusions(), *crf.values())])


def disk(repetitions, count=10, **size):
    results, truths = [], []
    for image, truth, cams in (scene(k, **size) for k in range(count)):
        results.append({"dict": cams, **{f"{a:02d}": s for a, s in crf_with_alphas(image, cams, ALPHAS).items()}})
        truths.append(truth)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        forms = [partial(write_folders, results, Path(one), True), partial(write_folders, results, Path(other), False)]
        times, folders = interleaved(forms, repetitions)
        kib = [sum(path.stat().st_size for path in folder.rglob("*.npy")) / count / 1024 for folder in folders]
        mious = [folder_mious(folder, truths) for folder in folders]
    return row(
        "disk",
        *kib,
        np.abs(mious[0] - mious[1]).max(),
        f"KiB an image, not ms: dict and 3 CRF folders, write_scores(compressed=True) against float32; 1/"
        f"{kib[1] / kib[0]:.1f}; difference: mIoU in points, largest of 25 thresholds and 3 alphas, {count} images; "
        f"written in {times[0] / count:.0f} against {times[1] / count:.0f} ms an image",
    )


ROWS = {
    "threshold_sweep": threshold_sweep,
    "boundary_sweep": boundary_sweep,
    "crf_3_alphas": crf_3_alphas,
    "disk": disk,
}
