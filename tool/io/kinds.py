"""What a folder's files hold - class activation maps, CRF scores, label images - and whether they look like it."""

import sys

import numpy as np

from tool.io.images import BACKGROUND, IGNORE

SUFFIX = {"cam": "npy", "crf": "npy", "png": "png"}
MADE_BY = {"cam": "infer.py --dict", "crf": "infer.py --crf", "png": "infer_aff.py"}
ROUNDING = 1e-3  # of half floats around 0 and 1
NEAR, FAR = 0.01, 0.25  # mean distance of a pixel's sum from 1: that of a CRF, that of no CRF


def recorded_kind(settings):
    """Which of SUFFIX a run of these settings (of its run.json) wrote; None where they do not tell."""
    for key, kind in (("alpha", "crf"), ("steps", "png"), ("arch", "png"), ("scales", "cam")):
        if key in (settings or {}):
            return kind
    return None


def distance_from_one(scores):
    """How far the values of a pixel are from summing to 1, as those of a CRF do, on average."""
    return np.abs(sum(score.astype(np.float32) for score in scores.values()) - 1).mean()


def unlike(kind, sample):
    """Why files of unknown origin cannot be of `kind`, in words, or None. sample: a few of them, as read."""
    distances = [distance_from_one(scores) for scores in sample]
    with_background = [BACKGROUND in scores for scores in sample]
    if kind == "cam" and max(distances) < NEAR and all(with_background):
        return "the values of every pixel sum to 1, as CRF scores do (--task crf)"
    if kind == "crf" and not any(with_background):
        return "no file has a background (key 0), as if they were class activation maps (--task cam)"
    if kind == "crf" and min(distances) > FAR:
        return "the values of a pixel are far from summing to 1, as if they were class activation maps (--task cam)"
    return None


def oddities(kind, scores):
    """What is strange about one score file, in words: a list, mostly empty."""
    if kind == "crf" and BACKGROUND not in scores:
        return ["has no background (key 0), so that every pixel is given a class"]
    low, high = min(score.min() for score in scores.values()), max(score.max() for score in scores.values())
    if kind == "cam" and (low < -ROUNDING or high > 1 + ROUNDING):
        return ["has values outside [0, 1], which the thresholds are meant for"]
    return []


def mask_oddities(mask):
    """What is strange about a mask, in words: a list, mostly empty. mask: H x W uint8."""
    ignored = mask == IGNORE
    if ignored.any() and not ignored.all() and (ignored | (mask == BACKGROUND)).all():
        return ["holds nothing but 0 and 255; 255 is ignored, so a black-and-white mask needs the class id instead"]
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
            print(f"warning: {paths[0]}: {text}{others}", file=sys.stderr)
