"""Draw a small data set in VOC layout: five classes, 1 to 3 objects an image, exact masks.

writes  OUT/JPEGImages, Annotations, SegmentationClass, ImageSets/Segmentation, OUT/train.txt and OUT/val.txt
        python voc12/make_toy.py --out data/toy

An object has a plain body, of any colour, and a small part with a pattern of its class: what a classifier needs is the
part, what a mask needs is the whole, which is the problem that weak supervision has on photographs. The same seed
gives the same bytes.
"""

import math
import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageFilter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, voc12/ is on the path, not the root

from tool.cli import Parser, natural, positive_int, run_script
from tool.io.files import write_text
from tool.io.images import IGNORE, label_image, save_image
from voc12.classes import VOC_CLASSES
from voc12.layout import annotation

TOY_CLASSES = ("bird", "bottle", "car", "cat", "tvmonitor")


# ---------------------------------------------------------------- textures


def smooth_noise(rng, size, cells):
    """Noise of `cells` blobs along the width, in [0, 1]; size (w, h) -> h x w float32."""
    width, height = size
    grid = rng.random((max(2, round(cells * height / width)), max(2, cells)))
    grid = Image.fromarray(grid.astype(np.float32)).resize(size, Image.BICUBIC)
    return np.clip(np.asarray(grid), 0, 1)


def background(rng, size):
    """A textured ground of two or three muted colours: clouds, bands or speckles."""
    low, high = rng.uniform(40, 200, 3), rng.uniform(40, 200, 3)
    mix = smooth_noise(rng, size, int(rng.integers(2, 6)))
    kind = rng.integers(3)
    if kind == 1:  # bands
        y, x = np.mgrid[: size[1], : size[0]]
        angle, period = rng.uniform(0, math.pi), rng.uniform(14, 40)
        mix = 0.5 * mix + 0.5 * (0.5 + 0.5 * np.sin(2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / period))
    elif kind == 2:  # speckles
        mix = 0.5 * mix + 0.5 * smooth_noise(rng, size, 30)
    ground = low + (high - low) * mix[..., None]
    third = smooth_noise(rng, size, 3)[..., None] > rng.uniform(0.6, 0.9)
    return np.where(third, 0.5 * ground + 0.5 * rng.uniform(40, 200, 3), ground)


def part_pattern(kind, x, y):
    """The pattern of a class's part in its own coordinates, -1 to 1: RGB h x w x 3, the same for every object."""
    if kind == "bird":  # yellow and black stripes
        return np.where((np.sin(6.5 * x) > 0)[..., None], (250, 210, 30), (20, 20, 20))
    if kind == "bottle":  # red and white checks
        return np.where((np.sin(5.5 * x) * np.sin(5.5 * y) > 0)[..., None], (220, 30, 40), (245, 245, 245))
    if kind == "car":  # magenta rings
        return np.where((np.sin(9 * np.hypot(x, y)) > 0)[..., None], (230, 60, 230), (30, 20, 60))
    if kind == "cat":  # green eyes: two dots on white
        dots = np.hypot(np.abs(x) - 0.45, y) < 0.33
        return np.where(dots[..., None], (30, 170, 60), (240, 235, 220))
    return np.where((np.sin(7 * y) > 0)[..., None], (40, 90, 240), (120, 240, 250))  # tvmonitor: blue scan lines


# ---------------------------------------------------------------- objects

# Each class: outline of the body in units of its half size, and where the part sits: (centre x, y, half size).
BODIES = {
    "bird": ("ellipse", 1.0, 0.66, (0.5, -0.05, 0.5)),
    "bottle": ("round", 0.5, 1.0, (0.0, -0.1, 0.46)),
    "car": ("round", 1.0, 0.55, (-0.42, 0.05, 0.5)),
    "cat": ("ellipse", 0.85, 0.85, (0.0, -0.15, 0.52)),
    "tvmonitor": ("box", 1.0, 0.72, (0.1, 0.0, 0.54)),
}


def draw_object(rng, canvas, mask, name, centre, half):
    """Paint an object onto canvas, h x w x 3 float, and mask, h x w ids -> (xmin, ymin, xmax, ymax), pixels from 1."""
    height, width = mask.shape
    outline, sx, sy, (px, py, ps) = BODIES[name]
    flip = 1 if rng.random() < 0.5 else -1
    angle = rng.uniform(-0.3, 0.3)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    x, y = (x - centre[0]) / half, (y - centre[1]) / half
    u = flip * (x * math.cos(angle) + y * math.sin(angle))
    v = -x * math.sin(angle) + y * math.cos(angle)
    exponent = {"ellipse": 2, "round": 4, "box": 20}[outline]
    body = (np.abs(u) / sx) ** exponent + (np.abs(v) / sy) ** exponent <= 1
    behind = canvas[body].mean(0)
    colour = max(rng.uniform(30, 240, (3, 3)), key=lambda c: np.abs(c - behind).sum())  # stands out a little
    shade = 1 - 0.12 * v[..., None]
    canvas[body] = (colour * shade)[body]
    pu, pv = (u - px) / ps, (v - py) / ps
    part = body & (np.hypot(pu, pv) <= 1)
    canvas[part] = part_pattern(name, pu, pv)[part]
    mask[body] = VOC_CLASSES.index(name) + 1
    x, y, width, height = cv2.boundingRect(body.view(np.uint8))
    return x + 1, y + 1, x + width, y + height


def draw_image(rng, size):
    """One image: (PIL RGB, mask h x w uint8 with rim, [(class name, box)]), size (w, h) in pixels."""
    width, height = size
    canvas, mask = background(rng, size), np.zeros((height, width), np.uint8)
    objects = []
    wanted = rng.choice([1, 2, 3], p=[0.45, 0.4, 0.15])
    for _ in range(20):
        half = rng.uniform(0.26, 0.44) * height / (1 + 0.15 * (wanted - 1))
        centre = (rng.uniform(0.12, 0.88) * width, rng.uniform(0.2, 0.8) * height)
        name = TOY_CLASSES[rng.integers(len(TOY_CLASSES))]
        left, top = (max(0, int(c - half)) for c in centre)
        if len(objects) == wanted:
            break
        # objects do not overlap, so that every image label stays visible
        if not mask[top : int(centre[1] + half), left : int(centre[0] + half)].any():
            objects.append((name, draw_object(rng, canvas, mask, name, centre, half)))
    canvas = canvas + rng.normal(0, 6, canvas.shape)
    image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.6))
    label = Image.fromarray(mask)  # pixels next to another label become 255, as VOC's rim
    rim = np.not_equal(label.filter(ImageFilter.MaxFilter(3)), label.filter(ImageFilter.MinFilter(3)))
    return image, np.where(rim, IGNORE, mask).astype(np.uint8), objects


def write_image(out, seed, index, mean_size):
    """Draw and write image `index`; returns its ID. Depends on seed and index alone."""
    rng = np.random.default_rng([seed, index])
    size = tuple(int(round(n * rng.uniform(0.92, 1.08))) for n in mean_size)
    image, mask, objects = draw_image(rng, size)
    image_id = f"toy_{index:05d}"
    save_image(out / "JPEGImages" / f"{image_id}.jpg", image, quality=92)
    save_image(out / "SegmentationClass" / f"{image_id}.png", label_image(mask))
    write_text(out / "Annotations" / f"{image_id}.xml", annotation(image_id, size, objects))
    return image_id


def get_args_parser():
    parser = Parser("make_toy.py", "Draw a small data set in VOC layout.")
    add = parser.add_argument
    add("--out", type=Path, default=Path("data/toy"), help="folder to write")
    add("--images", type=positive_int, default=300, help="training images")
    add("--val_images", type=natural, default=60, help="further images, for val.txt")
    text = "mean size in pixels; each image differs by up to 8 %%"
    add("--size", type=positive_int, nargs=2, default=[180, 140], metavar=("W", "H"), help=text)
    add("--seed", type=natural, default=0, help="seed of the drawing")
    return parser


def main(args):
    ids = [write_image(args.out, args.seed, k, args.size) for k in range(args.images + args.val_images)]
    splits = {"train": ids[: args.images], "val": ids[args.images :]}
    for name, split in splits.items():
        text = "".join(f"{image_id}\n" for image_id in split)
        write_text(args.out / f"{name}.txt", text)
        write_text(args.out / "ImageSets" / "Segmentation" / f"{name}.txt", text)
    print(f"{args.out}: {args.images} training and {args.val_images} further images of {len(TOY_CLASSES)} classes")


if __name__ == "__main__":
    run_script(main, get_args_parser())
