"""From a segmentation network to labels: several sizes of an image and their mirror images merged, dense CRF."""

import numpy as np
import torch

from tool.cam import map_views, on_pixels
from tool.crf import DenseCRF, Pairwise, background_score, fit

MERGES = ("mean", "max")
VIEWS = {"scales": [0.5, 0.75, 1.0, 1.25, 1.5, 1.75], "mirror": True, "merge": "mean"}  # infer_seg.py's defaults
CRF_PAIRWISE = Pairwise(sxy=4, compat=3, bilateral_sxy=83, srgb=5, bilateral_compat=3)
CRF_ITERATIONS = 10
LEAST = 1e-6  # that scores of a pixel sum to, before they are divided by it


@torch.no_grad()
def multi_scale_scores(net, views, size, merge="mean", labels=None):
    """Scores of every label at every pixel, from all views of an image -> L x H x W float32 in [0, 1].

    net: B x 3 x h x w -> logits B x L x h' x w'. views: as in `multi_scale_cam`. size: (H, W) of the original image.
    labels: ids of those it may have, None for all; L is their number.
    merge: "mean" = softmax of the mean of the logits; "max" = the largest softmax of any view, which need not sum to 1.
    """
    if merge not in MERGES:
        raise ValueError(f"merge {merge!r}: must be one of {MERGES}")
    total, count = None, 0
    for view in views:
        logits = map_views(net, view) if labels is None else map_views(net, view)[:, labels]
        logits = on_pixels(net, logits, view.shape[-2:], size)  # n x L x H x W
        if len(logits) > 1:
            logits[1] = logits[1].flip(-1)
        count += len(logits)
        scores = logits.sum(0) if merge == "mean" else logits.softmax(1).amax(0)
        if total is None:
            total = scores
        else:
            total = total.add_(scores) if merge == "mean" else torch.maximum(total, scores)
    return total.div_(count).softmax(0) if merge == "mean" else total


def mean_with_maps(scores, cams, keys, alpha):
    """Mean of a network's scores and of class activation maps, which are brought to a sum of 1 a pixel.

    scores: L x h x w float32 array of the labels `keys`, background first. cams: {class index from 0: H x W in [0, 1]}.
    alpha: power of the maps' background, (1 - max)^alpha. A label without a map is nowhere for the maps.
    """
    size = scores.shape[1:]
    maps = np.zeros((len(keys), *size), np.float32)
    for row, key in zip(maps[1:], keys[1:]):
        if key - 1 in cams:  # maps of other tools may lack a class
            row[:] = fit(cams[key - 1], size)
    maps[0] = background_score(maps[1:], alpha)
    return (scores + maps / maps.sum(0).clip(LEAST)) / 2


def label_map(scores, size=None):
    """L x h x w scores, a tensor or an array -> H x W uint8 label ids, an array, at `size`, else that of the scores.

    At their size they are found where the scores are, and labels alone leave a GPU. At another one label by label, so
    that a large photograph takes the memory of two maps and not of all.
    """
    if size is None or tuple(size) == tuple(scores.shape[-2:]):
        labels = scores.argmax(0)
        return (labels.byte().cpu().numpy() if torch.is_tensor(labels) else labels).astype(np.uint8)
    scores = scores.cpu().numpy() if torch.is_tensor(scores) else scores
    best, labels = fit(scores[0], size), np.zeros(size, np.uint8)
    for k in range(1, len(scores)):
        score = fit(scores[k], size)
        labels[score > best] = k
        np.maximum(best, score, out=best)
    return labels


def refine_scores(image, scores):
    """Dense CRF over all labels: H x W x 3 uint8 RGB, L x h x w float32 -> L x h x w, at the size of the scores."""
    return DenseCRF(fit(image, scores.shape[1:]), len(scores), pairwise=CRF_PAIRWISE)(scores, CRF_ITERATIONS)
