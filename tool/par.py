"""Pixel-adaptive refinement of maps (Ru et al., "Learning Affinity from Attention", CVPR 2022, section 3.4).

A quick alternative to the dense CRF (tool/crf.py) that needs no compiler: scores spread to pixels of like colour.
"""

import numpy as np
import torch
import torch.nn.functional as F

from tool.cam import inner_size
from tool.crf import background_score, fit
from tool.threads import one_thread

REFINEMENTS = ("crf", "par")  # what --refine takes
DILATIONS = (1, 4, 12, 24)  # pixels from a pixel to its eight neighbours
SIDE, ITERATIONS = 192, 20  # of maps; pixels of the longer side at which an image is seen: distances are parts of it
SCORES_SIDE, SCORES_ITERATIONS = 320, 10  # of a segmentation network's scores, which follow outlines already
WIDTH, PLACE = 0.3, 0.01  # of colour, in deviations of a neighbourhood; weight of place beside colour (both AFA's)
EPS = 1e-8


def neighbours(maps, dilation):
    """The eight neighbours of each pixel, at the border the nearest one. maps: C x h x w -> eight of the same shape."""
    h, w = maps.shape[-2:]
    padded = F.pad(maps[None], (dilation,) * 4, mode="replicate")[0]
    steps = [(y, x) for y in (0, dilation, 2 * dilation) for x in (0, dilation, 2 * dilation)]
    return [padded[:, y : y + h, x : x + w] for y, x in steps if (y, x) != (dilation, dilation)]


def colour_affinity(image):
    """What share of its score a pixel takes from each neighbour. image: 3 x h x w float32 -> N x h x w, sums of 1."""
    around = torch.stack([one for dilation in DILATIONS for one in neighbours(image, dilation)])  # N x 3 x h x w
    deviation = around.std(0) + EPS
    colour = -(((around - image) / deviation / WIDTH) ** 2).mean(1)
    corners = (2**0.5, 1, 2**0.5, 1, 1, 2**0.5, 1, 2**0.5)
    away = torch.tensor([dilation * far for dilation in DILATIONS for far in corners], device=image.device)
    place = -((away / (away.std() + EPS) / WIDTH) ** 2)
    return (colour.softmax(0) + PLACE * place.softmax(0)[:, None, None]) / (1 + PLACE)


def adapt(image, maps, steps):
    """Maps after `steps` along the affinity of their image; tensors of one device.

    image: 3 x h x w float32; maps: C x h x w -> the same shape.
    """
    affinity = colour_affinity(image)
    for _ in range(steps):
        around = (one for dilation in DILATIONS for one in neighbours(maps, dilation))
        maps = sum(share * one for share, one in zip(affinity, around))
    return maps


def diffuse(image, maps, steps):
    """`adapt` of arrays: image h x w x 3, maps C x h x w float32 -> the same shape."""
    with one_thread():  # processes do images side by side
        colours = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)
        return adapt(colours, torch.from_numpy(maps), steps).numpy()


def par_scores(image, scores):
    """The counterpart of `refine_scores`. image: H x W x 3 uint8 RGB; scores: L x h x w float32 -> the same shape."""
    size = scores.shape[1:]
    seen = inner_size(size, SCORES_SIDE)
    refined = diffuse(fit(image, seen), np.stack([fit(one, seen) for one in scores]), SCORES_ITERATIONS)
    return np.stack([fit(one, size) for one in refined])


def par_of_large(image, cams, alphas):
    """The counterpart of `crf_of_large`: gives (alpha, {0: background, c + 1: class c}) of H x W float32 maps.

    image: H x W x 3 uint8 RGB. cams: {class index from 0: H x W float32 in [0, 1]}. Values lie in [0, 1]; those
    of a pixel need not sum to 1. All powers are refined at once, at SIDE pixels.
    """
    size, keys = image.shape[:2], sorted(cams)
    seen = inner_size(size, SIDE)
    stack = np.stack([fit(cams[k], seen) for k in keys]) if keys else np.zeros((0, *seen), np.float32)
    backgrounds = np.stack([background_score(stack, alpha) for alpha in alphas]).astype(np.float32)
    refined = diffuse(fit(image, seen), np.concatenate([stack, backgrounds]), ITERATIONS)
    objects = {k + 1: fit(score, size) for k, score in zip(keys, refined)}
    for alpha, background in zip(alphas, refined[len(keys) :]):
        yield alpha, {0: fit(background, size)} | objects
