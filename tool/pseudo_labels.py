"""From class activation maps to pseudo labels: AffinityNet's random walk over an image, then one CRF iteration."""

import numpy as np
import torch

from tool.affinity_labels import pad_to_stride, pool_scores
from tool.cam import inner_size, resize_maps
from tool.crf import RELEASED, DenseCRF, background_score, fit
from tool.pairs import pair_affinity
from tool.random_walk import propagate, sparse_affinity
from tool.segmentation import label_map

CRF_ITERATIONS = 1  # after the walk


def stack_scores(cams, dup, size=(0, 0)):
    """{class: H x W} -> (keys, (K + 1) x H x W float32): background score (1 - max)^dup first, keys 0, c + 1 ...

    size: (H, W), for an image without any class, whose background is 1 everywhere.
    """
    keys = sorted(cams)
    maps = np.stack([cams[k] for k in keys]).astype(np.float32) if keys else np.zeros((0, *size), np.float32)
    return np.array([0, *(k + 1 for k in keys)]), np.concatenate([background_score(maps, dup)[None], maps])


@torch.no_grad()
def walk_scores(net, view, scores, device, beta=8, steps=64):
    """Spread scores along AffinityNet's affinities.

    net: AffinityNet. view: the image as the network sees it, normalised, 3 x h x w tensor at any scale.
    scores: K x H x W float32 array -> the same. beta, steps: the power on affinities and the length of the walk.
    """
    size = view.shape[-2:]
    maps = pad_to_stride(resize_maps(torch.from_numpy(scores), size), net.stride).to(device)
    features = net.features(pad_to_stride(view, net.stride)[None].to(device))
    h, w = features.shape[-2:]
    affinity = sparse_affinity(pair_affinity(features, net.radius)[0], h, w, net.radius)
    walked = propagate(affinity, pool_scores(maps, net.stride).flatten(1), beta, steps).view(-1, h, w)
    full = resize_maps(walked, maps.shape[-2:])[:, : size[0], : size[1]]
    return resize_maps(full, scores.shape[-2:]).float().cpu().numpy()


def refine_labels(image, keys, scores, max_side=0, pairwise=RELEASED):
    """One CRF iteration over the classes present, then the best label a pixel.

    image: H x W x 3 uint8; keys: K label ids; scores: K x H x W -> H x W uint8. max_side: the CRF's, see `inner_size`.
    """
    size = image.shape[:2]
    seen = inner_size(size, max_side)
    small = np.stack([fit(score, seen) for score in scores])
    refined = DenseCRF(fit(image, seen), len(keys), pairwise=pairwise)(small, CRF_ITERATIONS)
    return keys[label_map(refined, size)].astype(np.uint8)
