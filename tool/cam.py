"""Class activation maps: their normalisation, and the multi-scale mirrored form that infer.py stores."""

import torch
import torch.nn.functional as F

EPS = 1e-5
MAX_SIDE = 1024  # pixels of the longer side at which networks and CRF see a photograph; larger ones are brought down


def maxnorm(maps):
    """Rescale each map to [0, 1] by its own range: ReLU(c - min - 1e-5) / (max - min + 1e-5), of c = ReLU(maps).

    maps: B x C x h x w -> the same shape. A constant map becomes 0. Differentiable, through min and max as well.
    """
    c = F.relu(maps)
    low, high = c.amin((2, 3), keepdim=True), c.amax((2, 3), keepdim=True)
    return F.relu(c - low - EPS) / (high - low + EPS)


def upsample(maps, size):
    """Bilinear, align_corners False. maps: B x C x h x w, size (H, W) -> B x C x H x W, `maps` where it is theirs."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def padding_of(net, height, width):
    """(left, right, top, bottom): pixels by which a network pads an image of this size before it makes maps of it.

    Zeros, but for trunks that have `padding` (models/trunks.py). net: also as it is wrapped for several processes.
    """
    trunk = getattr(getattr(net, "module", net), "trunk", None)
    return trunk.padding(height, width) if hasattr(trunk, "padding") else (0, 0, 0, 0)


def on_pixels(net, maps, seen, size):
    """A network's maps, B x C x h x w of an image of `seen` (H, W), at the pixels of `size` (H, W); bilinear.

    Maps of a padded image cover its padding too: they are upsampled to the padded size, and that is cut off.
    """
    padding = left, right, top, bottom = padding_of(net, *seen)
    if any(padding):
        maps = upsample(maps, (seen[0] + top + bottom, seen[1] + left + right))
        maps = maps[..., top : top + seen[0], left : left + seen[1]]
    return upsample(maps, size)


def map_views(maps, view):
    """maps(view) of the image and its mirror image, n x 3 x h x w -> n x C x h' x w' float32."""
    # One batch on a GPU. On CPU two views together take up to 15 % longer than one after the other, and twice the
    # memory: their activations no longer fit what the allocator keeps.
    parts = view.split(len(view) if view.is_cuda else 1)
    return torch.cat([maps(part) for part in parts]).float()


@torch.no_grad()
def multi_scale_cam(net, views, label, size):
    """Sum of the positive class maps of every view, scaled to [0, 1] a class (released infer.py).

    net: gives `class_maps(B x 3 x h x w) -> B x C x h' x w'`.
    views: list of tensors n x 3 x h x w, one a scale: the image and, where n is 2, its mirror image as second.
    label: C values, 1 where the image has the class. size: (H, W) of the original image.
    Returns C x H x W float32 in [0, 1] on the device of `views`; 0 for classes that the image does not have.
    """
    shown = label.nonzero().flatten()
    cams = class_cams(net, views, shown, size)
    return cams.new_zeros(len(label), *cams.shape[1:]).index_copy_(0, shown.to(cams.device), cams)


def class_cams(net, views, classes, size):
    """The maps of `multi_scale_cam` of some classes alone, K indices -> K x H x W: the others are never upsampled."""
    total = views[0].new_zeros((len(classes), *size), dtype=torch.float32)
    classes = classes.to(total.device, non_blocking=True)
    for view in views if len(classes) else ():
        maps = map_views(net.class_maps, view).index_select(1, classes)
        # upsampled first, then ReLU (released): a cell without evidence lowers those beside it
        maps = F.relu(on_pixels(net, maps, view.shape[-2:], size))  # n x K x H x W
        total += maps[0]
        if len(maps) > 1:
            total += maps[1].flip(-1)
    return total / (total.amax((1, 2), keepdim=True) + EPS)


def inner_size(size, max_side):
    """(h, w) at which an image of `size` is seen: its own, or with the longer side at max_side; 0 = always its own."""
    longest = max(size)
    if not max_side or longest <= max_side:
        return tuple(size)
    return tuple(max(1, round(side * max_side / longest)) for side in size)


@torch.no_grad()
def labelled_cam(net, views, label, seen, size):
    """`multi_scale_cam` at the size `seen`, brought to `size` -> {class of the label: H x W float32 array}."""
    shown = label.nonzero().flatten()
    return maps_of(class_cams(net, views, shown, seen), shown, size)


def maps_of(cams, classes, size):
    """K x h x w maps of K classes (indices), at `size` -> {class: H x W float32 array}."""
    return dict(zip(classes.tolist(), resize_maps(cams, size).cpu().numpy())) if len(classes) else {}


def mean_maps(parts):
    """The mean of several networks' maps of one image, {class: H x W} each; a class that one lacks is 0 there."""
    return {k: sum(part[k] for part in parts if k in part) / len(parts) for k in sorted(set().union(*parts))}


def predict_label(logits, min_score):
    """The classes that a classifier finds: those whose probability reaches min_score, and always the best one.

    logits: C values -> (label: C float32 of 0 and 1, probabilities: C).
    """
    scores = torch.sigmoid(logits.float())
    label = (scores >= min_score).float()
    label[scores.argmax()] = 1
    return label, scores


def resize_maps(maps, size):
    """`upsample` of the maps of one image, C x h x w -> C x H x W."""
    return upsample(maps[None], tuple(size))[0]
