"""Rows of `make bench`: AffinityNet's pairs and the random walk."""

import torch

from tests.bench.measure import compare, mebibytes, peak_memory
from tests.bench.reference import dense_affinity, dense_walk, gathered_pair_affinity
from tool.pairs import pair_affinity
from tool.random_walk import propagate, sparse_affinity

WALK = (47, 63)  # cells of a 375 x 500 image
CLASSES = 21
LARGE = (128, 128)  # cells of a 1024 x 1024 image


def pair_step(form, batch=8, side=56):
    """A step forward and backward on features of batch x 448 x side x side -> (affinities, gradient)."""
    features = torch.randn(batch, 448, side, side, generator=torch.Generator().manual_seed(0))
    weight = torch.linspace(-1, 1, 31)

    def step():
        leaf = features.requires_grad_()
        leaf.grad = None
        affinity = form(leaf)
        factor = weight.repeat(affinity.numel() // 31 + 1)[: affinity.numel()].view_as(affinity)
        (affinity * factor).sum().backward()
        return affinity.detach(), leaf.grad

    return step


PAIR_FORMS = {"ours": pair_affinity, "published": gathered_pair_affinity}


def prepare_pairs(form):
    pair_step(PAIR_FORMS[form], batch=1, side=12)()  # libraries load before memory is counted
    return pair_step(PAIR_FORMS[form])


def largest_difference(ours, theirs):
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs))


def affinity_pairs(repetitions):
    memory = [peak_memory(f"{__name__}:prepare_pairs", form) for form in ("ours", "published")]
    note = f"448 x 56 x 56, batch 8, forward + backward; peak {' against '.join(map(mebibytes, memory))}"
    if None not in memory:
        note += f", 1/{memory[1] / memory[0]:.1f}"
    return compare(
        "affinity_pairs",
        pair_step(pair_affinity),
        pair_step(gathered_pair_affinity),
        largest_difference,
        note,
        repetitions,
    )


def walk_inputs(height, width):
    """Affinities offsets x anchors in (0, 1), many near 1 as in a trained net, and scores."""
    generator = torch.Generator().manual_seed(0)
    pairs = torch.rand(34, (height - 4) * (width - 8), generator=generator) ** 0.3
    return pairs, torch.rand(CLASSES, height * width, generator=generator)


def sparse_form(pairs, scores, size):
    return propagate(sparse_affinity(pairs, *size), scores)


def dense_form(pairs, scores, size):
    return dense_walk(dense_affinity(pairs, *size), scores)


WALK_FORMS = {"ours": sparse_form, "published": dense_form}


def prepare_walk(form, height, width):
    form, size = WALK_FORMS[form], (int(height), int(width))
    form(*walk_inputs(12, 12), (12, 12))
    pairs, scores = walk_inputs(*size)
    return lambda: form(pairs, scores, size)


def random_walk(repetitions):
    pairs, scores = walk_inputs(*WALK)
    memory = [peak_memory(f"{__name__}:prepare_walk", form, *map(str, WALK)) for form in ("ours", "published")]
    large = peak_memory(f"{__name__}:prepare_walk", "ours", *map(str, LARGE))
    note = f"47 x 63 cells, 21 classes, pairs to scores; peak {' against '.join(map(mebibytes, memory))}"
    note += f"; 1024 x 1024 pixels: {mebibytes(large)}"
    return compare(
        "random_walk",
        lambda: sparse_form(pairs, scores, WALK),
        lambda: dense_form(pairs, scores, WALK),
        lambda a, b: (a - b).abs().max().item(),
        note,
        repetitions,
    )


ROWS = {"affinity_pairs": affinity_pairs, "random_walk": random_walk}
