"""Views of an image: what the networks see. Every random choice comes from the generator that is handed in."""

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps

from tool.cam import inner_size, resize_maps
from tool.io.files import UserError
from tool.io.images import IGNORE, MEAN, STD

MAX_PIXELS = 2**30  # of a resized image
RESAMPLING = {"nearest": Image.NEAREST, "bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "lanczos": Image.LANCZOS}


class Look(NamedTuple):
    """How a trunk wants its images: mean and deviation of RGB in [0, 1], and the resampling it was trained with."""

    mean: tuple = MEAN
    std: tuple = STD
    interpolation: str = "bicubic"


IMAGENET = Look()  # what the paper's network wants


def look_of(trunk):
    """The Look of a trunk (models/trunks.py); bicubic where it names a resampling that Pillow has not."""
    known = trunk.interpolation if trunk.interpolation in RESAMPLING else "bicubic"
    return Look(trunk.mean, trunk.std, known)


def normalise(image, look=IMAGENET):
    """PIL RGB -> float32 tensor 3 x H x W of mean 0 and deviation 1, by the mean and deviation of `look`."""
    values = ((np.arange(256, dtype=np.float32)[:, None] / 255 - look.mean) / look.std).astype(np.float32)
    pixels = np.asarray(image)
    x = np.empty((3, *pixels.shape[:2]), np.float32)
    for k in range(3):  # looked up, a fifth of the time of calculating all in float64, and the same
        np.take(values[:, k], pixels[..., k], out=x[k], mode="clip")
    return torch.from_numpy(x)


def resize(image, size, look=IMAGENET):
    """Resample; size is (width, height) in pixels, at least 1 each. UserError where it is beyond any use."""
    width, height = (max(1, int(n)) for n in size)
    if width * height > MAX_PIXELS:
        text = f"an image of {image.width} x {image.height} pixels would be resized to {width} x {height}"
        raise UserError(f"{text}; lower the scale or the size that the flags ask for")
    return image if (width, height) == image.size else image.resize((width, height), RESAMPLING[look.interpolation])


def rescale(image, scale, look=IMAGENET):
    """Resample, both sides times `scale`, rounded."""
    return resize(image, (round(image.width * scale), round(image.height * scale)), look)


def at_most(image, max_side, look=IMAGENET):
    """Resample where a side is longer than `max_side`, so that it is not; 0 = never."""
    return resize(image, inner_size(image.size, max_side), look)


def check_jitter(strength):
    """UserError where the hue's strength is above 0.5, half of the colour circle. Loads what `colour_jitter` needs."""
    # Not at the top: torchvision takes a second, which stages that only look at images are spared; and not where it is
    # used: here it is the process ahead of its workers, which then have it.
    import torchvision.transforms.functional  # noqa: F401

    if strength[3] > 0.5:
        raise UserError(f"--jitter: hue {strength[3]} is above 0.5, half of the colour circle")


def colour_jitter(image, strength, rng):
    """PIL RGB: brightness, contrast, saturation (factor 1 +- strength), hue (+- strength <= 0.5), in random order."""
    from torchvision.transforms import functional as TF

    operations = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    low = [max(0.0, 1 - s) for s in strength[:3]] + [-strength[3]]
    high = [1 + s for s in strength[:3]] + [strength[3]]
    factors = rng.uniform(low, high)
    for k in rng.permutation(4):
        if strength[k] > 0:
            image = operations[k](image, float(factors[k]))
    return image


def random_crop(rng, crop, *maps, fills=(0, 0)):
    """The same random crop of tensors C x H x W of one size -> list of C x crop x crop.

    Along a side longer than the crop they are cut at a random place; along a shorter one they are put at a random
    offset of an empty canvas, which is filled with the value in `fills`.
    """
    canvas, source = [...], [...]
    for side in maps[0].shape[1:]:
        covered = min(side, crop)
        slack = int(rng.integers(0, abs(side - crop) + 1))
        at_canvas, at_source = (0, slack) if side > crop else (slack, 0)
        canvas.append(slice(at_canvas, at_canvas + covered))
        source.append(slice(at_source, at_source + covered))
    crops = [x.new_full((len(x), crop, crop), fill) for x, fill in zip(maps, fills)]
    for x, cropped in zip(maps, crops):
        cropped[tuple(canvas)] = x[tuple(source)]
    return crops


class TrainView:
    """Random view for the classifier: PIL RGB -> float32 3 x crop x crop.

    resize: (shortest, longest) of the long side in pixels. crop: side in pixels.
    jitter: strengths of brightness, contrast, saturation, hue; jitter_p: how often it is applied. look: the trunk's.
    """

    def __init__(self, resize=(256, 512), crop=320, jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, look=IMAGENET):
        check_jitter(jitter)
        self.resize, self.crop, self.jitter, self.jitter_p, self.look = resize, crop, jitter, jitter_p, look

    def __call__(self, image, rng):
        length = int(rng.integers(self.resize[0], self.resize[1] + 1))
        image = rescale(image, length / max(image.size), self.look)
        if rng.random() < 0.5:
            image = ImageOps.mirror(image)
        if rng.random() < self.jitter_p:
            image = colour_jitter(image, self.jitter, rng)
        return random_crop(rng, self.crop, normalise(image, self.look))[0]


class InferenceViews:
    """All views of one image: PIL RGB -> a list with, for each scale, n x 3 x h x w.

    n = 2 with `mirror` (the image, then its mirror image), else 1. look: the trunk's. max_side: see `inner_size`;
    scales count from what it leaves.
    """

    def __init__(self, scales=(0.5, 1.0, 1.5, 2.0), mirror=True, look=IMAGENET, max_side=0):
        self.scales, self.mirror, self.look, self.max_side = tuple(scales), mirror, look, max_side

    def __call__(self, image):
        views, image = [], at_most(image, self.max_side, self.look)
        for scale in self.scales:
            x = normalise(rescale(image, scale, self.look), self.look)
            views.append(torch.stack([x, x.flip(-1)]) if self.mirror else x[None])
        return views


class AffinityView:
    """Random view for AffinityNet, image and score maps cut and mirrored together.

    crop: side in pixels. scale: factor on both sides of the image and its scores before the crop (paper: 1).
    jitter: strengths of brightness, contrast, saturation, hue. look: the trunk's. max_side: see `inner_size`, first.
    """

    def __init__(self, crop=448, scale=1.0, jitter=(0.3, 0.3, 0.3, 0.1), look=IMAGENET, max_side=0):
        check_jitter(jitter)
        self.crop, self.scale, self.jitter, self.look, self.max_side = crop, scale, jitter, look, max_side

    def __call__(self, image, scores, rng):
        """image: PIL RGB; scores: C x H x W tensor of its size -> (3 x crop x crop, C x crop x crop).

        Scores are 0 where the image does not reach.
        """
        image = rescale(at_most(image, self.max_side, self.look), self.scale, self.look)
        image = colour_jitter(image, self.jitter, rng)
        scores = resize_maps(scores, (image.height, image.width))
        image, scores = random_crop(rng, self.crop, normalise(image, self.look), scores)
        if rng.random() < 0.5:
            image, scores = image.flip(-1), scores.flip(-1)
        return image.contiguous(), scores.contiguous()


class SegView:
    """Random view for the segmentation network: photograph and mask scaled, mirrored and cut together.

    scale: (least, largest) factor on both sides. crop: side in pixels. jitter: strengths of brightness, contrast,
    saturation, hue. padding: label id where the image does not reach; the image is 0 there, its mean colour.
    max_side: see `inner_size`, before all that.
    """

    def __init__(
        self, scale=(0.5, 1.5), crop=321, jitter=(0.3, 0.3, 0.3, 0.1), padding=IGNORE, look=IMAGENET, max_side=0
    ):
        check_jitter(jitter)
        self.scale, self.crop, self.jitter, self.padding = scale, crop, jitter, padding
        self.look, self.max_side = look, max_side

    def __call__(self, image, label, rng, scale_rng=None):
        """image: PIL RGB; label: H x W uint8 of its size -> (3 x crop x crop float32, crop x crop uint8).

        scale_rng: draws the factor, where it is not the image's own.
        """
        image = at_most(image, self.max_side, self.look)
        image = rescale(image, (scale_rng or rng).uniform(*self.scale), self.look)
        label = Image.fromarray(label).resize(image.size, Image.NEAREST)
        if rng.random() < 0.5:
            image, label = ImageOps.mirror(image), ImageOps.mirror(label)
        image = colour_jitter(image, self.jitter, rng)
        maps = normalise(image, self.look), torch.from_numpy(np.array(label))[None]
        x, label = random_crop(rng, self.crop, *maps, fills=(0, self.padding))
        return x, label[0]
