"""Formulations as they are published, written plainly: what tests compare with and `make bench` measures against."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from tool.crf import load_crf


def pair_indices(height, width, radius):
    """Cell numbers of all pairs: (anchors n, partners offsets * n). A map too small uses radius (side - 1) // 2."""
    radius = min(radius, (min(height, width) - 1) // 2)
    reach = max(radius - 1, 0)
    cells = torch.arange(height * width).view(height, width)
    rows, columns = height - reach, width - 2 * reach
    steps = [(0, dx) for dx in range(1, radius)]
    for dy in range(1, radius):
        for dx in range(-radius + 1, radius):
            if dx * dx + dy * dy < radius * radius:
                steps.append((dy, dx))
    anchors = cells[:rows, reach : reach + columns].flatten()
    partners = [cells[dy : dy + rows, reach + dx : reach + dx + columns].flatten() for dy, dx in steps]
    return anchors, torch.cat(partners) if partners else cells.new_zeros(0)


def gathered_pair_affinity(features, radius=5):
    """AffinityNet's pairs by gathering them: features B x C x h x w -> B x offsets x anchors."""
    batch, channels, height, width = features.shape
    anchors, partners = (indices.to(features.device) for indices in pair_indices(height, width, radius))
    features = features.reshape(batch, channels, -1)
    one = torch.index_select(features, 2, anchors).unsqueeze(2)
    other = torch.index_select(features, 2, partners).view(batch, channels, len(partners) // len(anchors), len(anchors))
    return torch.exp(-torch.mean(torch.abs(other - one), dim=1))


def dense_affinity(pairs, height, width, radius=5):
    """Affinities of one image, offsets x anchors -> dense N x N, symmetric with unit diagonal."""
    anchors, partners = pair_indices(height, width, radius)
    cells = torch.arange(height * width)
    start = anchors.repeat(len(pairs))
    indices = torch.stack([torch.cat([start, cells, partners]), torch.cat([partners, cells, start])])
    values = torch.cat([pairs.flatten(), torch.ones(len(cells)), pairs.flatten()])
    return torch.sparse_coo_tensor(indices, values, (len(cells), len(cells))).to_dense()


def dense_walk(affinity, scores, beta=8, log_steps=6):
    """scores C x N times T^(2^log_steps), the power built by squaring; affinity dense N x N."""
    transition = affinity**beta
    transition = transition / transition.sum(dim=0, keepdim=True)
    for _ in range(log_steps):
        transition = transition @ transition
    return scores @ transition


def threshold_counts(maps, masks, thresholds, num_labels=21):
    """The threshold sweep: for every threshold a pass over all files. maps, masks: paths of .npy dicts and of PNGs.

    Returns thresholds x 3 x labels int64: for each label the pixels hit, predicted and true, without ignored ones.
    """
    counts = np.zeros((len(thresholds), 3, num_labels), np.int64)
    for k, threshold in enumerate(thresholds):
        for map_path, mask_path in zip(maps, masks):
            scores = np.load(map_path, allow_pickle=True).item()
            stack = np.zeros((num_labels, *next(iter(scores.values())).shape), np.float32)
            for label, score in scores.items():
                stack[label + 1] = score
            stack[0] = threshold
            predicted = stack.argmax(axis=0).astype(np.uint8)
            truth = np.array(Image.open(mask_path))
            valid = truth < 255
            hit = (predicted == truth) * valid
            for label in range(num_labels):
                counts[k, 0, label] += np.sum((truth == label) * hit)
                counts[k, 1, label] += np.sum((predicted == label) * valid)
                counts[k, 2, label] += np.sum((truth == label) * valid)
    return counts


def mask_boundary(mask, ratio=0.02):
    """Boundary of a mask, H x W of 0 and 1, as Boundary IoU defines it: the mask less its part eroded step by step."""
    height, width = mask.shape
    steps = max(1, round(ratio * np.sqrt(height**2 + width**2)))
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    inside = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=steps)
    return mask - inside[1:-1, 1:-1]


def boundary_counts(maps, masks, thresholds, num_labels=21):
    """Boundary pixels for every threshold, label by label, ignored pixels in no mask. Arguments of threshold_counts.

    Returns thresholds x 3 x labels int64: for each label the boundary pixels hit, predicted and true.
    """
    counts = np.zeros((len(thresholds), 3, num_labels), np.int64)
    for map_path, mask_path in zip(maps, masks):
        scores = np.load(map_path, allow_pickle=True).item()
        truth = np.array(Image.open(mask_path))
        for k, threshold in enumerate(thresholds):
            stack = np.zeros((num_labels, *truth.shape), np.float32)
            for label, score in scores.items():
                stack[label + 1] = score
            stack[0] = threshold
            predicted = np.where(truth == 255, 255, stack.argmax(axis=0))
            for label in set(np.union1d(truth, predicted).tolist()) - {255}:
                true, found = (mask_boundary((image == label).astype(np.uint8)) for image in (truth, predicted))
                counts[k, :, label] += [np.count_nonzero(area) for area in (true & found, found, true)]
    return counts


def crf(image, probabilities, iterations):
    """Dense CRF of image H x W x 3 uint8 over probabilities labels x H x W, its lattices built for this call alone."""
    labels, height, width = probabilities.shape
    field = load_crf()(width, height, labels)
    unary = -np.log(np.clip(probabilities, 1e-5, 1.0))
    field.setUnaryEnergy(np.ascontiguousarray(unary.reshape(labels, -1).astype(np.float32)))
    field.addPairwiseGaussian(sxy=3, compat=3)
    field.addPairwiseBilateral(sxy=80, srgb=13, rgbim=np.copy(image), compat=10)
    return np.array(field.inference(iterations)).reshape(labels, height, width)


def crf_with_alpha(image, cams, alpha, iterations=10):
    """CRF scores of one background power: {class: H x W} -> {0: background, class + 1: H x W}."""
    stack = np.array(list(cams.values()))
    background = np.power(1 - np.max(stack, axis=0, keepdims=True), alpha)
    scores = crf(image, np.concatenate([background, stack]), iterations)
    return {0: scores[0], **{key + 1: scores[k + 1] for k, key in enumerate(cams)}}


@torch.no_grad()
def cam_of_views(net, views, label, size):
    """Multi-scale CAM, one forward a view. views: list of 1 x 3 x h x w, each image followed by its mirror image.

    label: C values 0 or 1; size: (H, W). Returns C x H x W in [0, 1].
    """
    total = 0
    for k, view in enumerate(views):
        cam = F.relu(F.interpolate(net.class_maps(view), size, mode="bilinear", align_corners=False)[0])
        total = total + (cam.flip(-1) if k % 2 else cam) * label.view(-1, 1, 1)
    return total / (total.amax((1, 2), keepdim=True) + 1e-5)


@torch.no_grad()
def scores_of_views(net, views, size):
    """Probabilities of every label, each view run, upsampled and mirrored back by itself, in float32.

    views: a list of 1 x 3 x h x w, every second one a mirror image. Returns L x H x W.
    """
    total = 0
    for k, view in enumerate(views):
        logits = F.interpolate(net(view), size, mode="bilinear", align_corners=False)[0]
        total = total + (logits.flip(-1) if k % 2 else logits)
    return torch.softmax(total / len(views), 0)


@torch.no_grad()
def pseudo_labels(net, image, cams, dup, num_labels=21, radius=5):
    """Random walk and CRF of one image over all labels, on the image padded to a multiple of 8 -> H x W uint8.

    net: AffinityNet. image: H x W x 3 uint8; cams: {class: H x W float32}; dup: power of the background score.
    """
    height, width = image.shape[:2]
    bottom, right = -height % 8, -width % 8
    mean, deviation = np.float32((0.485, 0.456, 0.406)), np.float32((0.229, 0.224, 0.225))
    pixels = (image.astype(np.float32) / 255 - mean) / deviation
    tensor = F.pad(torch.from_numpy(pixels.transpose(2, 0, 1))[None], (0, right, 0, bottom))
    scores = np.zeros((num_labels, height, width), np.float32)
    for key, cam in cams.items():
        scores[key + 1] = cam
    scores[0] = (1 - scores[1:].max(axis=0)) ** dup
    scores = F.avg_pool2d(torch.from_numpy(np.pad(scores, ((0, 0), (0, bottom), (0, right))))[None], 8)[0]
    cells = scores.shape[1:]
    affinity = dense_affinity(gathered_pair_affinity(net.features(tensor), radius)[0], *cells, radius)
    walked = dense_walk(affinity, scores.flatten(1)).view(1, num_labels, *cells)
    walked = F.interpolate(walked, tensor.shape[-2:], mode="bilinear", align_corners=False)[0].numpy()
    colours = np.clip((tensor[0].numpy().transpose(1, 2, 0) * deviation + mean) * 255, 0, 255).astype(np.uint8)
    labels = crf(np.ascontiguousarray(colours), walked, iterations=1).argmax(axis=0)
    return labels[:height, :width].astype(np.uint8)
