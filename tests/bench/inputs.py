"""Images and class activation maps to measure with: drawn, since no photographs can be shipped, the same every run."""

import numpy as np
import torch
from PIL import Image

from tool.cam import upsample
from voc12.make_toy import draw_image, smooth_noise

HEIGHT, WIDTH = 375, 500  # the usual VOC photograph
STRIDE = 8
SCALES = (0.5, 1.0, 1.5, 2.0)


def photo_texture(rng, size):
    """Colour variation like a photograph's, amplitude falling with frequency: size (w, h) -> h x w x 3, mean 0.

    The cost of a dense CRF is that of its lattice, which grows with the colours that an image has; amplitudes are
    chosen so that it takes as long as on photographs of the same size.
    """
    texture = 0
    for cells, amplitude in ((3, 60), (8, 40), (20, 26), (60, 14)):
        grey = smooth_noise(rng, size, cells)[..., None]
        colour = np.stack([smooth_noise(rng, size, cells) for _ in range(3)], axis=2)
        texture = texture + amplitude * (0.7 * grey + 0.3 * colour - 0.5)
    return texture + rng.normal(0, 4, (size[1], size[0], 3))


def scene(seed, height=HEIGHT, width=WIDTH):
    """One drawing with texture -> (image H x W x 3 uint8, truth H x W uint8 with 255 rims, {class: H x W float32}).

    The maps, of the 1 to 3 classes of the image, are as coarse as a network's: blurred objects with some noise, on
    the cells of four scales, upsampled bilinearly, summed, scaled to [0, 1].
    """
    rng = np.random.default_rng(seed)
    drawing, truth, _ = draw_image(rng, (width, height))
    image = np.clip(np.asarray(drawing) + photo_texture(rng, (width, height)), 0, 255).astype(np.uint8)
    classes = sorted(set(np.unique(truth).tolist()) - {0, 255})
    return image, truth, {c - 1: class_map(rng, truth == c) for c in classes}


def class_map(rng, mask):
    """A class activation map of the object at `mask`, H x W float32 in [0, 1]."""
    height, width = mask.shape
    total = 0
    for scale in SCALES:
        cells = (max(1, round(width * scale / STRIDE)), max(1, round(height * scale / STRIDE)))
        coarse = Image.fromarray(mask.astype(np.float32)).resize((max(2, width // 40), max(2, height // 40)), Image.BOX)
        activation = np.asarray(coarse.resize(cells, Image.BICUBIC)) * (0.4 + smooth_noise(rng, cells, 6))
        activation = activation + 0.5 * (smooth_noise(rng, cells, 9) - 0.45) + rng.normal(0, 0.02, cells[::-1])
        maps = torch.from_numpy(np.maximum(activation, 0).astype(np.float32))
        total = total + upsample(maps[None, None], (height, width))[0, 0].numpy()
    return total / (total.max() + np.float32(1e-5))
