"""The formulas that make the inputs of tests/golden/*.npz (parameters from names, images from phase); a drawing."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

GOLDEN = Path(__file__).parent / "golden"


def load(name):
    return np.load(GOLDEN / f"{name}.npz", allow_pickle=False)


def state_shapes(name):
    """{entry: shape} of a released state, in the net's order."""
    shapes = {}
    for line in (GOLDEN / f"{name}_state.txt").read_text().splitlines():
        key, shape = line.split()
        shapes[key] = () if shape == "scalar" else tuple(int(n) for n in shape.split("x"))
    return shapes


def golden_state(shapes):
    """Parameter values from sorted names alone; num_batches_tracked stays 0."""
    state = {}
    for k, name in enumerate(sorted(shapes)):
        shape = shapes[name]
        if name.endswith("num_batches_tracked"):
            state[name] = torch.zeros((), dtype=torch.int64)
            continue
        v = np.sin(0.7310585 * np.arange(int(np.prod(shape)), dtype=np.float64) + k)
        if name.endswith("running_var"):
            v = 1 + 0.25 * v
        elif name.endswith("running_mean"):
            v = 0.1 * v
        elif len(shape) == 4:
            v = v * np.sqrt(3 / np.prod(shape[1:]))
        elif name.endswith(".weight"):
            v = 1 + 0.1 * v
        else:
            v = 0.1 * v
        state[name] = torch.from_numpy(v.reshape(shape).astype(np.float32))
    return state


def golden_image(shape, phase):
    i = np.arange(int(np.prod(shape)), dtype=np.float64)
    v = 1.5 * np.sin(0.0137 * i + phase) + 0.5 * np.cos(0.00171 * i * (1 + phase))
    return torch.from_numpy(v.reshape(tuple(shape)).astype(np.float32))


def draw(seed, side=128):
    """A photograph of one rectangle on grey, and its mask: its edges are edges of cells."""
    rng = np.random.default_rng(seed)
    label = np.zeros((side, side), np.uint8)
    (y, x), (height, width) = 8 * rng.integers(0, 5, 2), 8 * rng.integers(7, 12, 2)
    label[y : y + height, x : x + width] = 1 + seed % 2
    colours = np.array([[120, 120, 120], [200, 40, 40], [40, 40, 200]])[label] + rng.integers(-20, 20, (side, side, 3))
    return Image.fromarray(colours.astype(np.uint8)), label
