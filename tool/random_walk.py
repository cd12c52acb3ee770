"""The random walk that spreads class scores over cells of high affinity.

The transition matrix is sparse, at most 69 entries a column for radius 5, and only ever multiplies scores; its 64th
power would be dense. Time and memory grow with the number of cells, not with its square.
"""

import torch
import torch.nn.functional as F

from tool.pairs import RADIUS, fit_radius, offsets, window
from tool.threads import one_thread


@one_thread()
def sparse_affinity(pairs, height, width, radius=RADIUS):
    """Affinities of one image, offsets x anchors as from AffinityNet -> sparse COO (coalesced), N x N, N = h * w.

    Symmetric, with 1 on the diagonal; a cell outside of every pair has only that. `height` and `width` are those of
    the map in cells. ValueError where `pairs` is of another map.
    """
    radius = fit_radius(height, width, radius)
    moves = offsets(radius)
    anchors = window(torch.empty(height, width, device="meta"), (0, 0), radius).shape
    if pairs.shape != (len(moves), anchors.numel()):
        expected = (len(moves), anchors.numel())
        raise ValueError(f"a {height} x {width} map has {expected} affinities, not {tuple(pairs.shape)}")
    # one map of weights for each step that a cell can take; in the order of the steps, a row's columns are ascending
    steps = sorted([(0, 0), *moves, *((-dy, -dx) for dy, dx in moves)])
    weight = pairs.new_zeros(len(steps), height, width)
    exists = torch.zeros(len(steps), height, width, dtype=torch.bool, device=pairs.device)
    weight[steps.index((0, 0))] = 1
    exists[steps.index((0, 0))] = True
    for (dy, dx), affinity in zip(moves, pairs.reshape(len(moves), *anchors)):
        for step, start in (((dy, dx), (0, 0)), ((-dy, -dx), (dy, dx))):
            window(weight[steps.index(step)], start, radius).copy_(affinity)
            window(exists[steps.index(step)], start, radius).fill_(True)
    row, step = exists.flatten(1).t().nonzero(as_tuple=True)
    shift = torch.tensor([dy * width + dx for dy, dx in steps], device=pairs.device)
    values = weight.flatten(1)[step, row]
    cells = height * width
    indices = torch.stack([row, row + shift[step]])
    with torch.sparse.check_sparse_tensor_invariants(False):  # they hold by construction; undecided, torch warns
        return torch.sparse_coo_tensor(indices, values, (cells, cells), is_coalesced=True)


@torch.no_grad()
def propagate(affinity, scores, beta=8, steps=64):
    """scores C x N times T^steps -> C x N, where T is affinity^beta (each entry by itself) with columns of sum 1.

    affinity: N x N, dense or of any sparse layout, at least 0, symmetric with unit diagonal. float64 stays float64,
    all else is computed as float32. ValueError for shapes that do not belong together.
    """
    if affinity.ndim != 2 or scores.ndim != 2 or affinity.shape != (scores.shape[1], scores.shape[1]):
        raise ValueError(f"affinity N x N and scores C x N are needed, not {(*affinity.shape,)} and {(*scores.shape,)}")
    dtype = torch.promote_types(torch.float32, affinity.dtype)
    scores = scores.to(dtype)
    if scores.numel() == 0:
        return scores
    if affinity.layout == torch.strided:
        transition = affinity.to(dtype) ** beta
        transition /= transition.sum(dim=0)
        for _ in range(steps):
            scores = scores @ transition
        return scores
    with one_thread():
        transition = SparseColumns(affinity.to(dtype), beta)
        walked = scores.t().contiguous()
        for _ in range(steps):
            walked = transition.multiply(walked)
        return walked.t().contiguous()


class SparseColumns:
    """The transition matrix of a sparse affinity (N x N): its entries sorted by column, columns of sum 1.

    A product is an `embedding_bag`: cell j sums the scores of its neighbours i, weighted with T_ij. That kernel is
    vectorised over classes and runs on CPU and GPU; torch's own sparse product of COO tensors takes 20 times as long.
    """

    def __init__(self, affinity, beta):
        affinity = affinity.to_sparse_coo().coalesce()  # duplicates add up before the power is taken
        row, column = affinity.indices()
        order = torch.argsort(column, stable=True)
        column = column[order]
        self.row = row[order]
        self.start = torch.searchsorted(column, torch.arange(affinity.shape[1], device=column.device))
        self.values = affinity.values()[order] ** beta
        sums = self.multiply(self.values.new_ones(affinity.shape[1], 1))[:, 0]
        self.values /= sums[column]

    def multiply(self, scores):
        """scores N x C -> N x C: row j is the sum over i of T_ij times row i."""
        return F.embedding_bag(self.row, scores, self.start, mode="sum", per_sample_weights=self.values)
