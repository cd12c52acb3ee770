"""Results of any stage or method, file by file beside their truth: class activation maps, CRF scores, label images."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from tool.io.files import UserError, print_warning
from tool.io.images import BACKGROUND, check_size, fit_mask, mask_oddities, open_mask
from tool.io.scores import read_scores
from tool.metrics import Counts, ThresholdSweep, best_labels, best_threshold, confusion, kfold, mean_ious, measures

SUFFIX = {"cam": "npy", "crf": "npy", "png": "png"}  # of each task
MADE_BY = {"cam": "infer.py --dict", "crf": "infer.py --crf", "png": "infer_aff.py"}
# a setting of a run -> its task
MADE_WITH = {"png": "png", "alpha": "crf", "steps": "png", "arch": "png", "scales": "cam"}
ROUNDING = 1e-3  # of half floats around 0 and 1
NEAR, FAR = 0.01, 0.25  # mean distance of a pixel's sum from 1: that of a CRF, that of no CRF
SAMPLE = 5  # files of unknown origin that are looked at before all are scored


def read_results(ids, folder, mask, task, num_labels, photo=None):
    """(ID, truth, result) of every image: truth H x W uint8; {class: H x W scores} of task cam, H x W labels of others.

    mask, photo: give the path of an ID's truth and of its photograph, for `fit_mask`. UserError where a file is
    broken, of another size or of other classes; what is merely strange about files is said at the end.
    """
    notes = Notes()
    for image_id in tqdm(ids, task, unit="image", disable=None):
        truth = open_mask(mask(image_id), num_labels)
        notes.add(mask(image_id), mask_oddities(truth))
        path = Path(folder) / f"{image_id}.{SUFFIX[task]}"
        result = read_result(path, task, num_labels)
        if task != "png":
            notes.add(path, oddities(task, result))
        if task == "crf":
            result = best_labels(result)
        if task != "cam" or result:
            shape = next(iter(result.values())).shape if task == "cam" else result.shape
            if photo and truth.shape != shape:
                truth = fit_mask(truth, shape, photo(image_id))
            check_size(truth, shape, path)
        yield image_id, truth, result
    notes.say()


def read_result(path, task, num_labels):
    """What a stage says of an image: {class: H x W} of task cam, {label: H x W} of crf, H x W uint8 labels of png."""
    if task != "png":
        is_cam = task == "cam"
        scores, limit = read_scores(path, empty=is_cam), num_labels - is_cam
        if max(scores, default=-1) >= limit:
            raise UserError(
                f"{path}: holds key {max(scores)}, but there are {limit} labels; check --task and --classes"
            )
        return scores
    labels = open_mask(path, num_labels)
    if labels.max() >= num_labels:
        raise UserError(f"{path}: a pseudo label has 255 (ignored) pixels; every pixel needs a class")
    return labels


def score(ids, folder, mask, task, thresholds, names, parts=None, photo=None):
    """Figures of a folder, in percent. names: the labels'; mask, photo: give paths; parts: {ID: its fold, from 0}."""
    sweeps = [
        ThresholdSweep(len(names), thresholds, boundaries=True) if thresholds else Counts(len(names), boundaries=True)
        for _ in range(1 + max(parts.values()) if parts else 1)
    ]
    for image_id, truth, result in read_results(ids, folder, mask, task, len(names), photo):
        sweep = sweeps[parts[image_id] if parts else 0]
        (sweep.add if thresholds else sweep.add_labels)(truth, result)
    counts = np.stack([sweep.confusions() for sweep in sweeps])
    total, boundary = counts.sum(0), sum(sweep.boundary for sweep in sweeps)
    best = best_threshold(total)
    return measures(total[best], boundary[best], names) | {
        "thresholds": list(thresholds),
        "miou_by_threshold": [mean_ious(one)["miou"] for one in total] if thresholds else [],
        "best_threshold": thresholds[best] if thresholds else None,
        "oracle_threshold": len(thresholds) > 1,
        **({"kfold": kfold(counts, thresholds)} if parts else {}),
    }


def labels_of(result, task, threshold=None, size=(0, 0)):
    """H x W labels of what `read_result` gives. threshold: the background's, for maps; size: (H, W), where none is."""
    if task == "png":
        return result
    if not result:
        return np.full(size, BACKGROUND)
    labels = best_labels(result)
    if task == "crf":
        return labels
    top = np.max(list(result.values()), axis=0).astype(np.float32)
    return np.where(top > np.float32(threshold), labels + 1, BACKGROUND)


def image_iou(truth, labels, num_labels):
    """IoU of one image in percent: mean over the labels that its truth or its result shows; 255 counts for nothing."""
    return mean_ious(confusion(truth, labels, num_labels))["miou_present"]


def disagreement(maps):
    """Percent of pixels to which not all label maps, H x W each, give the same label; 100 where their sizes differ."""
    first, *others = maps
    if any(labels.shape != first.shape for labels in others):
        return 100.0
    return 100 * float(np.mean(np.any([labels != first for labels in others], axis=0))) if others else 0.0


# ---------------------------------------------------------------- files of another task


def check_kind(ids, folder, task, settings, forced=False):
    """UserError where results are of another task, by settings of run.json; None: by a few files, unless `forced`."""
    kind = next((kind for key, kind in MADE_WITH.items() if key in (settings or {})), None)
    if kind not in (None, task):
        raise UserError(f"{folder}: its run.json says that {MADE_BY[kind]} made it; score it with --task {kind}")
    if settings is not None or task == "png" or forced:
        return
    reason = unlike(task, [read_scores(Path(folder) / f"{i}.npy") for i in ids[:: -(-len(ids) // SAMPLE)]])
    if reason:
        raise UserError(f"{folder}: not what --task {task} scores: {reason}; --mixed_origins scores them all the same")


def unlike(kind, sample):
    """Why files of unknown origin cannot be of `kind`, in words, or None. sample: a few of them, as read."""
    sums = [sum(one.astype(np.float32) for one in scores.values()) for scores in sample]
    distances = [np.abs(values - 1).mean() for values in sums]  # those of a CRF sum to 1
    with_background = [BACKGROUND in scores for scores in sample]
    if kind == "cam" and max(distances) < NEAR and all(with_background):
        return "the values of every pixel sum to 1, as CRF scores do (--task crf)"
    if kind == "crf" and not any(with_background):
        return "no file has a background (key 0), as if they were class activation maps (--task cam)"
    if kind == "crf" and min(distances) > FAR:
        return "the values of a pixel are far from summing to 1, as if they were class activation maps (--task cam)"
    return None


# ---------------------------------------------------------------- strange files


def oddities(kind, scores):
    """What is strange about one score file, in words: a list, mostly empty."""
    if kind == "crf" and BACKGROUND not in scores:
        return ["has no background (key 0), so that every pixel is given a class"]
    if not scores:
        return []
    low, high = min(one.min() for one in scores.values()), max(one.max() for one in scores.values())
    if kind == "cam" and (low < -ROUNDING or high > 1 + ROUNDING):
        return ["has values outside [0, 1], which the thresholds are meant for"]
    return []


class Notes:
    """What is strange about files, each kind of it said once with the first file."""

    def __init__(self):
        self.files = {}  # {text: paths}

    def add(self, path, texts):
        for text in texts:
            self.files.setdefault(text, []).append(path)

    def say(self):
        for text, paths in self.files.items():
            others = f" (and {len(paths) - 1} more files)" if len(paths) > 1 else ""
            print_warning(f"{paths[0]}: {text}{others}")
