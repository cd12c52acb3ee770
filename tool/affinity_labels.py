"""From CRF scores of a low and a high alpha to what AffinityNet learns: which pairs of cells show the same class.

A low alpha gives much background and few, sure objects; a high one the reverse. Where the low one sees an object and
where the high one sees background, the label is taken as sure; every other cell is ignored.
"""

import numpy as np
import torch
import torch.nn.functional as F

from tool.io.images import BACKGROUND, IGNORE
from tool.pairs import RADIUS, fit_radius, offsets, window

STRIDE = 8  # pixels a cell


def pad_to_stride(x, stride):
    """Zeros right and below, so that both sides are multiples of `stride`: ... x H x W -> ... x H' x W'."""
    return F.pad(x, (0, -x.shape[-1] % stride, 0, -x.shape[-2] % stride))


def pool_scores(scores, stride=STRIDE):
    """Mean over stride x stride pixels: C x H x W -> C x ceil(H/stride) x ceil(W/stride), float32.

    Right and bottom are padded with zeros to a multiple of `stride`. Array in, array out; tensor in, tensor out.
    """
    if isinstance(scores, np.ndarray):
        return pool_scores(torch.from_numpy(np.ascontiguousarray(scores, np.float32)), stride).numpy()
    return F.avg_pool2d(pad_to_stride(scores.float(), stride)[None], stride)[0]


def affinity_label(low, high):
    """Pooled scores of the two alphas, each C x h x w with background first -> label h x w uint8.

    0 is background, c the c-th of the other classes, 255 ignore: cells that the low alpha calls background and the
    high one does not, and the empty canvas around an image, where no class has a score.
    """
    low, high = np.asarray(low), np.asarray(high)
    if low.shape != high.shape or low.ndim != 3:
        raise ValueError(f"scores of the same C x h x w are needed, not {low.shape} and {high.shape}")
    label = low.argmax(axis=0).astype(np.uint8)
    label[label == BACKGROUND] = IGNORE
    label[high.argmax(axis=0) == BACKGROUND] = BACKGROUND
    label[~(low.any(axis=0) | high.any(axis=0))] = IGNORE
    return label


def pair_masks(label, radius=RADIUS):
    """label h x w (0 background, 255 ignore) -> bg, fg, neg: masks of pairs, each offsets x anchors float32, 0 or 1.

    bg: both background; fg: both of one class; neg: two classes, background being one. Pairs with an ignored
    cell are in none. Offsets, anchors and the radius on small maps as in tool/pairs.py.
    """
    label = np.asarray(label)
    radius = fit_radius(*label.shape, radius)
    moves = offsets(radius)
    anchors = window(label, (0, 0), radius)
    partners = np.array([window(label, move, radius) for move in moves], label.dtype)
    partners = partners.reshape(len(moves), *anchors.shape)
    valid = (anchors != IGNORE) & (partners != IGNORE)
    same = valid & (anchors == partners)
    masks = (same & (anchors == BACKGROUND), same & (anchors != BACKGROUND), valid & ~same)
    return tuple(mask.reshape(len(moves), anchors.size).astype(np.float32) for mask in masks)
