"""Pairs of nearby cells of a feature map: their geometry and their affinities (Ahn and Kwak, CVPR 2018).

An *anchor* is a cell far enough from the left, right and bottom borders that every partner, within `radius` in the
lower half plane, lies on the map. Offset by offset, the partners are then the anchors' window moved by (dy, dx): a
view. Nothing ever gathers all pairs, which for a batch of training would take gigabytes. Labels
(tool/affinity_labels.py) and random walk (tool/random_walk.py) share the geometry.
"""

import torch
from torch.autograd.function import once_differentiable

from tool.threads import spread

RADIUS = 5  # cells of 8 pixels
CPU_BLOCK = 2**19  # values of one difference on CPU: 2 MiB of float32, which stays in cache


def fit_radius(height, width, radius=RADIUS):
    """The radius for a map of height x width cells: `radius`, or (shorter side - 1) // 2 where that is less."""
    return max(0, min(radius, (min(height, width) - 1) // 2))


def offsets(radius=RADIUS):
    """[(dy, dx)] from an anchor to its partners: distance below `radius` cells, lower half plane; 34 for radius 5.

    To the right first, then row by row from left to right. Empty for radius 0 and 1.
    """
    span = range(1 - radius, radius)
    return [(0, dx) for dx in range(1, radius)] + [
        (dy, dx) for dy in range(1, radius) for dx in span if dy * dy + dx * dx < radius * radius
    ]


def window(maps, offset, radius):
    """View of the anchors of `maps` (... x h x w; tensor or array), moved by `offset` = (dy, dx); (0, 0): themselves.

    Anchors keep radius - 1 cells from the left, right and bottom borders; `radius` has to fit the map (`fit_radius`).
    """
    reach = max(0, radius - 1)
    height, width = maps.shape[-2:]
    dy, dx = offset
    return maps[..., dy : height - reach + dy, reach + dx : width - reach + dx]


class PairDistance(torch.autograd.Function):
    """Mean over channels of |f_i - f_j|: features B x C x h x w, radius -> B x offsets x anchor rows x anchor columns.

    Keeps the features alone; backward computes the sign of every difference again. `radius` has to fit the map.
    """

    @staticmethod
    def forward(ctx, features, radius):
        # channels last: a pair's values lie side by side, for the mean, and a row of windows is one run of memory
        features = features.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(features)
        ctx.radius = radius
        moves = offsets(radius)
        distance = features.new_empty(len(features), len(moves), *window(features, (0, 0), radius).shape[-2:])

        def measure(images):
            for rows, source in row_blocks(features, radius):
                part = features[images, :, source]
                anchors = window(part, (0, 0), radius)
                difference = torch.empty_like(anchors, memory_format=torch.channels_last)
                for k, move in enumerate(moves):
                    torch.sub(anchors, window(part, move, radius), out=difference)
                    distance[images, k, rows] = difference.abs_().mean(1)

        for_images(features, measure)
        return distance

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_distance):
        (features,) = ctx.saved_tensors
        radius = ctx.radius
        grad_distance = grad_distance / features.shape[1]
        grad = torch.zeros_like(features, memory_format=torch.channels_last)

        def accumulate(images):
            for rows, source in row_blocks(features, radius):
                part, grad_part = features[images, :, source], grad[images, :, source]
                anchors, grad_anchors = (window(x, (0, 0), radius) for x in (part, grad_part))
                sign = torch.empty_like(anchors, memory_format=torch.channels_last)
                for k, move in enumerate(offsets(radius)):
                    torch.sub(anchors, window(part, move, radius), out=sign)
                    sign.sign_().mul_(grad_distance[images, k, rows].unsqueeze(1))
                    grad_anchors.add_(sign)
                    window(grad_part, move, radius).sub_(sign)

        for_images(features, accumulate)
        return grad, None


def for_images(features, work):
    """work(slice of images): on CPU image by image, spread over the threads; on a GPU all at once."""
    if features.device.type == "cpu":
        spread(work, [slice(b, b + 1) for b in range(len(features))])
    else:
        work(slice(None))


def row_blocks(features, radius):
    """(anchor rows, feature rows they need), as slices; on CPU so few that their difference fits the cache."""
    channels = features.shape[1]
    rows, columns = window(features, (0, 0), radius).shape[-2:]
    step = max(1, CPU_BLOCK // (channels * columns)) if features.device.type == "cpu" else rows
    for top in range(0, rows, step):
        stop = min(top + step, rows)
        yield slice(top, stop), slice(top, stop + max(0, radius - 1))


def pair_affinity(features, radius=RADIUS):
    """exp(-mean over channels |f_i - f_j|) of all pairs: features B x C x h x w -> B x offsets x anchors, in [0, 1].

    Offsets as `offsets`, anchors row by row, both for the radius that fits the map. Half precision comes out, and is
    computed, as float32; gradients reach the features once (no second derivatives).
    """
    if features.dtype in (torch.float16, torch.bfloat16):
        features = features.float()
    return torch.exp(-PairDistance.apply(features, fit_radius(*features.shape[-2:], radius)).flatten(2))
