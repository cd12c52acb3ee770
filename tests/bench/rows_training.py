"""Rows of `make bench`: an update of AffinityNet and of the segmentation network at full width, random weights."""

from functools import partial
from types import SimpleNamespace

from engine.distributed import CPU
from tests.bench.measure import compare
from tests.gpu.same import placed
from tests.gpu.speed import batch_of, network, training


def step_forms(stage, images, side, width=1.0):
    """A step with bf16, and the published formulation in float32: two functions -> total loss."""
    net, batch = network(stage, SimpleNamespace(width=width, device=CPU)), batch_of(stage, images, side)
    forms = [
        training(stage, form, placed(net, CPU, form == "amp").train(), batch, CPU) for form in ("amp", "published")
    ]
    return [partial(lambda form: float(form()), form) for form in forms]


def step(name, stage, repetitions, images=2, side=160):
    text = (
        f"{stage}: a step, full width, batch {images}, {side} x {side}, bf16 against float32; difference: of the loss"
    )
    forms = step_forms(stage, images, side)
    return compare(name, *forms, lambda a, b: abs(a - b) / b, f"{text}, relative", repetitions, images=images)


ROWS = {
    "train_aff_step": partial(step, "train_aff_step", "train_aff.py"),
    "train_seg_step": partial(step, "train_seg_step", "train_seg.py, three scales"),
}
