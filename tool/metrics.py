"""IoU from confusion matrices, and every threshold of a background score in one pass."""

import numpy as np

from tool.io.files import UserError

THRESHOLDS = tuple(round(0.10 + 0.01 * k, 2) for k in range(25))  # 0.10 ... 0.34, as released


def best_labels(scores):
    """The label with the largest score of each pixel, the smallest of equal ones: {label: H x W} -> H x W."""
    keys = np.array(sorted(scores))
    return keys[np.argmax([scores[k] for k in keys], axis=0)]


def confusion(truth, predicted, num_labels):
    """Counts[i, j] of pixels of true label i predicted as j; truth 255 (anything >= num_labels) is left out.

    truth, predicted: integer arrays of one shape. Returns num_labels x num_labels int64.
    """
    valid = truth < num_labels
    code = truth[valid].astype(np.int64) * num_labels + predicted[valid]
    return np.bincount(code, minlength=num_labels**2).reshape(num_labels, num_labels)


def iou(counts):
    """IoU of each label from a confusion matrix (..., L, L) -> (..., L) in [0, 1], NaN where absent from both sides."""
    hit = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
    union = counts.sum(-1) + counts.sum(-2) - hit
    return np.divide(hit, union, out=np.full(hit.shape, np.nan), where=union > 0)


def mean_iou(values):
    """Both means of IoU values with NaN for absent labels: (absent as 0, as released; over present labels alone)."""
    present = values[~np.isnan(values)]
    return float(np.nan_to_num(values).mean()), float(present.mean()) if present.size else 0.0


def check_size(truth, shape, name):
    if truth.shape != tuple(shape):
        raise UserError(f"{name}: {shape[1]} x {shape[0]} pixels, but its mask has {truth.shape[1]} x {truth.shape[0]}")


class ThresholdSweep:
    """Confusion matrices of class activation maps for many background thresholds, reading each map once.

    A pixel is background where the threshold is >= every class score. So only its best class and the number of
    thresholds below that score matter: one histogram over (number of thresholds, truth, best class) holds them all.
    """

    def __init__(self, num_labels, thresholds=THRESHOLDS):
        self.num_labels = num_labels
        self.thresholds = np.sort(np.asarray(thresholds, dtype=np.float64))
        self.limits = self.thresholds.astype(np.float32)  # scores are float32: compare as released does
        n = len(self.thresholds) + 1
        self.histogram = np.zeros((n, num_labels, num_labels), dtype=np.int64)

    def add(self, truth, scores):
        """truth: H x W uint8 with 255 ignored; scores: {class index from 0: H x W float32}."""
        keys = np.array(sorted(scores))
        stack = np.stack([scores[k] for k in keys]).astype(np.float32, copy=False)
        valid = truth < self.num_labels
        stack = stack[:, valid]  # K x pixels
        best = stack.argmax(0)
        passed = np.searchsorted(self.limits, stack.max(0), side="left")  # thresholds strictly below the score
        n = self.num_labels
        code = (passed * n + truth[valid]) * n + keys[best] + 1
        self.histogram += np.bincount(code, minlength=self.histogram.size).reshape(self.histogram.shape)

    def confusions(self):
        """thresholds x L x L: counts[t, i, j] of true label i predicted as j."""
        above = self.histogram[::-1].cumsum(0)[::-1]  # above[k]: at least k thresholds passed
        counts = above[1:].copy()  # threshold t is passed by bins t+1 and up
        counts[:, :, 0] += above[0].sum(-1) - above[1:].sum(-1)
        return counts

    def mious(self):
        """Both means for every threshold: two lists in [0, 1] (absent labels as 0; over present labels)."""
        pairs = [mean_iou(values) for values in iou(self.confusions())]
        return [a for a, _ in pairs], [b for _, b in pairs]
