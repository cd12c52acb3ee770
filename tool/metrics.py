"""Scores of label images: IoU, precision and recall, boundary IoU, and every threshold of a background score at once.

Counts are summed over all images before anything is divided, as PASCAL VOC does. Truth 255 is ignored everywhere: what
a prediction says there changes no figure. docs/metrics.md says what each figure means.
"""

from collections import Counter
from itertools import combinations

import cv2
import numpy as np

from tool.io.images import BACKGROUND, IGNORE

BOUNDARY_RATIO = 0.02  # of an image's diagonal (Cheng et al., Boundary IoU, CVPR 2021)


def thresholds_between(low, high):
    """Background thresholds from low on in steps of 0.01, none above high."""
    return tuple(round(low + 0.01 * k, 6) for k in range(int(100 * (high - low) + 1e-6) + 1))


RELEASED_RANGE = (0.10, 0.34)
THRESHOLDS = thresholds_between(*RELEASED_RANGE)


def best_labels(scores):
    """The label with the largest score of each pixel, the smallest of equal ones: {label: H x W} -> H x W."""
    first, *others = sorted(scores)
    top, labels = scores[first], np.full(scores[first].shape, first)
    for key in others:  # a quarter of the time of an argmax over the maps
        np.copyto(labels, key, where=scores[key] > top)
        top = np.maximum(top, scores[key])
    return labels


def confusion(truth, predicted, num_labels):
    """Counts[i, j] of pixels of true label i predicted as j; truth 255 (anything >= num_labels) is left out.

    truth, predicted: integer arrays of one shape. Returns num_labels x num_labels int64.
    """
    valid = truth < num_labels
    code = truth[valid].astype(np.int64) * num_labels + predicted[valid]
    return np.bincount(code, minlength=num_labels**2).reshape(num_labels, num_labels)


# ---------------------------------------------------------------- figures


def divide(part, whole, absent):
    """part / whole as floats: 0 where whole is 0, NaN where `absent`."""
    values = np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=whole > 0)
    return np.where(absent, np.nan, values)


def areas(counts):
    """Pixels of each label that are hit, predicted and true, from confusion matrices (..., L, L): three of (..., L)."""
    return np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-2), counts.sum(-1)


def iou(counts):
    """IoU of each label from a confusion matrix (..., L, L) -> (..., L) in [0, 1], NaN where absent from both sides."""
    return share_of_union(*areas(counts))


def share_of_union(hit, predicted, true):
    union = predicted + true - hit
    return divide(hit, union, union == 0)


def mean_iou(values):
    """Both means of IoU values with NaN for absent labels: (absent as 0, as released; over present labels alone)."""
    present = values[~np.isnan(values)]
    return float(np.nan_to_num(values).mean()), float(present.mean()) if present.size else 0.0


def mean_ious(counts):
    """`mean_iou` of a confusion matrix in percent: {"miou": absent labels as 0, "miou_present"}."""
    miou, present = mean_iou(iou(counts))
    return {"miou": 100 * miou, "miou_present": 100 * present}


def boundary_iou(boundary):
    """Boundary IoU of each label, (..., 3, L) as `Counts` gives them -> (..., L) in [0, 1], NaN as `iou`."""
    return share_of_union(*np.moveaxis(boundary, -2, 0))


def measures(counts, boundary, names):
    """All figures of one result, in percent: {name of the figure: number or {label name: number}}.

    counts: confusion matrix L x L. boundary: 3 x L, see `Counts`. names: the labels' names, background first.
    """
    hit, predicted, true = areas(counts)
    union = predicted + true - hit
    absent = union == 0
    hits, guesses, objects = (pixels[BACKGROUND + 1 :].sum() for pixels in (hit, predicted, true))

    def mean(figures):
        return 100 * mean_iou(figures)[1]

    def by_name(figures):
        return {name: 100 * float(value) for name, value in zip(names, np.nan_to_num(figures))}

    precision, recall, boundaries = divide(hit, predicted, absent), divide(hit, true, absent), boundary_iou(boundary)
    return {
        "classes": by_name(iou(counts)),
        "absent": [name for name, missing in zip(names, absent) if missing],
        **mean_ious(counts),
        "precision": by_name(precision),
        "recall": by_name(recall),
        "mean_precision": mean(precision),
        "mean_recall": mean(recall),
        "foreground_precision": 100 * float(divide(hits, guesses, False)),
        "foreground_recall": 100 * float(divide(hits, objects, False)),
        "false_positive": mean(divide(predicted - hit, union, absent)),
        "false_negative": mean(divide(true - hit, union, absent)),
        "boundary_iou": mean(boundaries),
        "boundary_iou_classes": by_name(boundaries),
    }


def best_threshold(counts):
    """Index of the threshold with the best mean IoU, absent labels as 0. counts: thresholds x L x L."""
    return int(np.argmax([mean_iou(values)[0] for values in iou(counts)]))


def kfold(counts, thresholds):
    """Scores without an oracle: each fold is scored at the threshold that is best on the other folds.

    counts: folds x thresholds x L x L. Returns {"k", "miou", "miou_present", "thresholds"}: the means, in percent, of
    the confusion matrix summed over the folds, and the threshold of each fold.
    """
    total = counts.sum(0)
    chosen = [best_threshold(total - fold) for fold in counts]
    figures = mean_ious(sum(fold[k] for fold, k in zip(counts, chosen)))
    return {"k": len(counts)} | figures | {"thresholds": [thresholds[k] for k in chosen]}


def choice(counts, settings):
    """The setting that is best on all images, and how such a choice does on images that it did not see.

    counts: folds x settings x L x L. -> (setting, {"miou": `kfold`'s over present labels, "std": of the folds' own,
    "folds": the setting of each fold}), in percent.
    """
    unseen = kfold(counts, range(len(settings)))
    picked = unseen["thresholds"]
    spread = deviation([mean_ious(fold[k])["miou_present"] for fold, k in zip(counts, picked)])
    figures = {"miou": unseen["miou_present"], "std": spread, "folds": [settings[k] for k in picked]}
    return settings[best_threshold(counts.sum(0))], figures


def choice_of_few(counts, settings, few, draws, seed=0):
    """How good the setting is that `few` images choose, drawn several times: scored on all the others.

    counts: images x settings x L x L. -> {"miou": the mean over present labels, "std": of the draws, in percent,
    "setting": what most draws chose, "share": how many of them}.
    """
    rng, whole, picked, ious = np.random.default_rng(seed), counts.sum(0), [], []
    for _ in range(draws):
        seen = counts[rng.permutation(len(counts))[:few]].sum(0)
        picked.append(best_threshold(seen))
        ious.append(mean_ious((whole - seen)[picked[-1]])["miou_present"])
    (most, share), *_ = Counter(picked).most_common()
    return {"miou": float(np.mean(ious)), "std": deviation(ious), "setting": settings[most], "share": share}


def sure_powers(counts, alphas, dup):
    """(low, high): of the background powers up to `dup` that with the surest objects, from it that with the surest
    background, by F-measures in which precision weighs four times as much as recall.

    counts: alphas x L x L, of images together. alphas: powers in order, two at least; low is below high.
    """
    hit, predicted, true = areas(counts)
    overall = hit[:, 1:].sum(1), predicted[:, 1:].sum(1), true[:, 1:].sum(1)
    objects, background = f_measure(*overall), f_measure(hit[:, 0], predicted[:, 0], true[:, 0])
    pairs = [(a, b) for a, b in combinations(range(len(alphas)), 2) if alphas[a] <= dup <= alphas[b]]
    low, high = max(pairs, key=lambda pair: objects[pair[0]] + background[pair[1]])
    return alphas[low], alphas[high]


def f_measure(hit, predicted, true, beta=0.25):
    """Precision and recall in one, recall weighing `beta` times as much; arrays of one shape."""
    return divide((1 + beta**2) * hit, predicted + beta**2 * true, False)


def split_folds(ids, k, seed):
    """{ID: number of its fold}: k folds whose sizes differ by one at most; the order of `ids` plays no part."""
    order = np.random.default_rng(seed).permutation(len(ids))
    return {image_id: int(place) % k for image_id, place in zip(sorted(ids), order)}


def deviation(values):
    """Standard deviation of a sample; None of a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def over_methods(results, methods, figures):
    """`over_experiments` of each method. results: {experiment: result}; methods: {name: its experiments}, or None."""
    if not methods:
        return over_experiments(list(results.values()), figures)
    return {
        "methods": {
            method: {"names": names} | over_experiments([results[name] for name in names], figures)
            for method, names in methods.items()
        }
    }


def over_experiments(results, figures):
    """Mean and standard deviation (of a sample, n - 1; None of one) of results -> {"mean": ..., "std": ...}.

    results: as `measures` gives them, perhaps with "kfold". figures: names of numbers in them. Both values have these
    figures, "classes" {class: IoU}, and "kfold_miou".
    """
    columns = {key: [result[key] for result in results] for key in figures}
    if "kfold" in results[0]:
        columns["kfold_miou"] = [result["kfold"]["miou"] for result in results]
    classes = {name: [result["classes"][name] for result in results] for name in results[0]["classes"]}
    return {
        kind: {key: of(values) for key, values in columns.items()} | {"classes": {n: of(v) for n, v in classes.items()}}
        for kind, of in (("mean", lambda values: float(np.mean(values))), ("std", deviation))
    }


# ---------------------------------------------------------------- counting


def boundary_width(shape):
    """Pixels that the boundary of a mask is deep, in an image of `shape` (height, width)."""
    return max(1, round(BOUNDARY_RATIO * float(np.hypot(*shape))))


def extremes(values, width):
    """(smallest, largest) of H x W uint8 within `width` pixels of each pixel, diagonally too; 255 outside of them."""
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    border = {"borderType": cv2.BORDER_CONSTANT, "borderValue": 255}
    return cv2.erode(values, kernel, **border), cv2.dilate(values, kernel, **border)


def histogram(values, sizes, mask=None):
    """Number of pixels of each combination of values, of shape `sizes`; values from a size on are left out.

    values: uint8 arrays H x W, as many as sizes. mask: H x W bool, of the pixels that count. A fifth of the time of
    np.bincount with its index of combinations; OpenCV counts in float32, exact for so many rows at a time.
    """
    rows = max(1, 2**24 // values[0].shape[1])
    total = np.zeros(sizes, np.int64)
    for top in range(0, len(values[0]), rows):
        parts = [np.ascontiguousarray(array[top : top + rows], np.uint8) for array in values]
        part = None if mask is None else mask[top : top + rows].view(np.uint8)
        ranges = [bound for size in sizes for bound in (0, size)]
        total += cv2.calcHist(parts, list(range(len(sizes))), part, list(sizes), ranges).reshape(sizes).astype(np.int64)
    return total


class Counts:
    """Confusion matrices and boundary counts of label images, at several steps at once.

    At step k a pixel has its label where `passed` is above k, else it is background. So one histogram over (passed,
    truth, label) holds the confusion matrices of all steps.

    Boundaries (Cheng et al., CVPR 2021): the pixels of a mask that are at most `boundary_width` from its contour, the
    image's border being a contour; that is where a square around the pixel, the iterated 3 x 3 kernel, holds another
    label. Ignored pixels belong to no mask, neither of truth nor of the prediction, so an ignored rim is a contour in
    both. Seen over the steps, a square is all background from the step on that its largest `passed` is, and has no
    background before the step that its smallest is. So one look at the neighbourhood of each pixel gives the steps at
    which it is a boundary pixel, of its label and of the background, and histograms of their first and last count them.
    """

    def __init__(self, num_labels, steps=1, boundaries=False):
        if steps >= IGNORE:
            raise ValueError(f"{steps} steps: at most {IGNORE - 1}")
        self.num_labels, self.steps = num_labels, steps
        self.histogram = np.zeros((steps + 1, num_labels, num_labels), dtype=np.int64)
        self.boundary = np.zeros((steps, 3, num_labels), dtype=np.int64) if boundaries else None

    def add_labels(self, truth, predicted):
        """One step: truth H x W uint8 with 255 ignored, predicted H x W labels."""
        labels = predicted.astype(np.uint8, copy=False)
        self.histogram[1] += histogram((truth, labels), self.histogram.shape[1:])
        if self.boundary is not None:  # as `_add_boundaries`, in half of its time
            ignored = (truth >= self.num_labels).view(np.uint8) * np.uint8(IGNORE)
            truth, labels = truth | ignored, labels | ignored
            width, size = boundary_width(truth.shape), (self.num_labels,)
            true, found = (np.not_equal(*extremes(values, width)) for values in (truth, labels))
            for row, values, mask in (0, truth, true & found & (truth == labels)), (1, labels, found), (2, truth, true):
                self.boundary[0, row] += histogram((values,), size, mask)

    def add_steps(self, truth, labels, passed):
        """H x W each, uint8. labels: what a pixel is at the steps before its `passed`."""
        counts = histogram((passed, truth, labels), self.histogram.shape)
        self.histogram += counts
        if self.boundary is not None:
            ignored = (truth >= self.num_labels).view(np.uint8) * np.uint8(IGNORE)
            self._add_boundaries(truth | ignored, labels | ignored, passed | ignored, ignored, counts.sum(1).T)

    def _add_boundaries(self, truth, labels, passed, ignored, ends):
        """Arrays H x W that are 255 where `ignored` is. ends: pixels of each label and `passed`."""
        width = boundary_width(truth.shape)
        (low, high), (label_low, label_high) = extremes(passed, width), extremes(labels, width)
        true_low, true_high = extremes(truth, width)
        first = low * (label_low == label_high)  # among other labels it is boundary from the beginning
        last = np.minimum(high, self.steps) | ignored
        at_boundary = true_low != true_high
        self.boundary[:, 2] += histogram((truth,), (self.num_labels,), at_boundary)

        size = ends.shape
        change = histogram((labels, first), size) - ends
        change[BACKGROUND] += ends.sum(0) - histogram((last,), size[1:])
        self.boundary[:, 1] += change[:, :-1].cumsum(1).T

        objects, background = at_boundary & (labels == truth), at_boundary & (truth == BACKGROUND)
        change = histogram((labels, first), size, objects) - histogram((labels, passed), size, objects)
        change[BACKGROUND] += histogram((passed,), size[1:], background) - histogram((last,), size[1:], background)
        self.boundary[:, 0] += change[:, :-1].cumsum(1).T

    def confusions(self):
        """steps x L x L: counts[k, i, j] of true label i predicted as j."""
        above = self.histogram[::-1].cumsum(0)[::-1]  # above[k]: at least k steps passed
        counts = above[1:].copy()  # step k is passed by bins k+1 and up
        counts[:, :, 0] += above[0].sum(-1) - above[1:].sum(-1)
        return counts


class ThresholdSweep(Counts):
    """Counts of class activation maps for many background thresholds, reading each map once.

    A pixel is background where the threshold is >= every class score. So only its best class and the number of
    thresholds below that score matter.
    """

    def __init__(self, num_labels, thresholds=THRESHOLDS, boundaries=False):
        super().__init__(num_labels, len(thresholds), boundaries)
        self.thresholds = np.sort(np.asarray(thresholds, dtype=np.float64))
        self.limits = self.thresholds.astype(np.float32)  # scores are float32: compare as released does

    def add(self, truth, scores):
        """truth: H x W uint8 with 255 ignored; scores: {class index from 0: H x W float32}, of no class too."""
        top, labels = np.zeros(truth.shape, np.float32), np.zeros(truth.shape, np.uint8)
        for key in sorted(scores):  # a score of 0 or less is above no threshold
            score = scores[key].astype(np.float32, copy=False)
            better = score > top
            np.copyto(top, score, where=better)
            labels[better] = key + 1
        passed = np.zeros(top.shape, np.uint8)
        for limit in self.limits:
            passed += top > limit
        self.add_steps(truth, labels, passed)
