"""The sparse random walk against values of the released code and against the dense one."""

import warnings

import numpy as np
import pytest
import torch
from golden_inputs import load
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.bench.reference import dense_affinity, dense_walk, gathered_pair_affinity
from tool.affinity_labels import pool_scores
from tool.pairs import pair_affinity
from tool.random_walk import propagate, sparse_affinity

LAYOUTS = {
    "dense": lambda a: a,
    "coo": lambda a: a.to_sparse_coo(),
    "csr": lambda a: a.to_sparse_csr(),
    "csc": lambda a: a.to_sparse_csc(),
}
pytestmark = pytest.mark.filterwarnings("ignore:Sparse CS. tensor support:UserWarning")


def walk_by_hand(affinity, scores, beta, steps):
    """The definition, entry by entry in double."""
    a = affinity.double().numpy()
    n = len(a)
    transition = np.array([[a[i, j] ** beta for j in range(n)] for i in range(n)])
    for j in range(n):
        transition[:, j] /= sum(transition[i, j] for i in range(n))
    walked = scores.double().numpy()
    for _ in range(steps):
        walked = np.array([[sum(row[i] * transition[i, j] for i in range(n)) for j in range(n)] for row in walked])
    return walked


def random_graph(n, density, seed):
    """Symmetric N x N with unit diagonal, each edge in (0, 1) or absent; low densities leave isolated cells."""
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.uniform(0.3, 1, (n, n)) * (rng.random((n, n)) < density), 1)
    return torch.from_numpy((upper + upper.T + np.eye(n)).astype(np.float32))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_walked_scores_are_the_released_ones(layout):
    golden = load("random_walk")
    affinity = LAYOUTS[layout](torch.from_numpy(golden["affinity_dense"]))
    cams = golden["cams"].copy()
    cams[0] = (1 - cams[1:].max(axis=0)) ** int(golden["alpha"])
    pooled = torch.from_numpy(pool_scores(cams))
    walked = propagate(affinity, pooled.flatten(1), int(golden["beta"]), int(golden["steps"]))
    np.testing.assert_allclose(walked.view(pooled.shape).numpy(), golden["walked"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 12),
    classes=st.integers(1, 4),
    density=st.sampled_from([0.0, 0.1, 0.4, 1.0]),
    beta=st.integers(1, 8),
    steps=st.integers(0, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_walk_on_random_graphs_is_the_definition(layout, n, classes, density, beta, steps, seed):
    affinity = random_graph(n, density, seed)
    scores = torch.from_numpy(np.random.default_rng(seed + 1).random((classes, n), np.float32))
    walked = propagate(LAYOUTS[layout](affinity), scores, beta, steps)
    assert walked.dtype == torch.float32
    np.testing.assert_allclose(walked.numpy(), walk_by_hand(affinity, scores, beta, steps), rtol=2e-5, atol=1e-6)
    for cell in range(n):
        if affinity[cell].sum() == 1:  # isolated: nothing comes, nothing goes
            assert torch.equal(walked[:, cell], scores[:, cell])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 16), st.integers(1, 16), st.integers(0, 6), st.integers(0, 2**32 - 1))
def test_walk_on_any_grid_is_the_dense_one(height, width, radius, seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(1, 4, height, width, generator=generator)
    pairs = pair_affinity(features, radius)[0]
    affinity = sparse_affinity(pairs, height, width, radius)
    dense = dense_affinity(gathered_pair_affinity(features, radius)[0], height, width, radius)
    torch.testing.assert_close(affinity.to_dense(), dense)
    scores = torch.rand(3, height * width, generator=generator)
    torch.testing.assert_close(propagate(affinity, scores), dense_walk(dense, scores), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 20), (20, 1), (2, 9)])
def test_maps_without_pairs_stay_as_they_are(size):
    pairs = pair_affinity(torch.randn(1, 4, *size))[0]
    affinity = sparse_affinity(pairs, *size)
    assert torch.equal(affinity.to_dense(), torch.eye(size[0] * size[1]))
    scores = torch.rand(3, size[0] * size[1])
    assert torch.equal(propagate(affinity, scores), scores)


def test_sparse_affinity_is_symmetric_with_unit_diagonal_and_at_most_69_a_column():
    affinity = sparse_affinity(torch.rand(34, (14 - 4) * (17 - 8)), 14, 17)
    assert affinity.is_coalesced() and affinity.shape == (14 * 17, 14 * 17)
    assert torch.equal(affinity.indices(), affinity.detach().clone().coalesce().indices())
    dense = affinity.to_dense()
    assert torch.equal(dense, dense.T) and (dense.diagonal() == 1).all()
    counts = affinity.indices()[1].bincount()
    assert counts.max() == 69
    bottom = [dense[13 * 17 + x].count_nonzero().item() for x in range(17)]
    # (4, -2) is the lowest and leftmost offset: columns 0 and 1 of the last row are beyond every anchor's reach
    assert bottom[:2] == bottom[-2:] == [1, 1] and min(bottom[2:-2]) > 1


def test_an_affinity_of_zero_keeps_its_place_in_the_pattern():
    pairs = torch.zeros(4, 2 * 1)  # 3 x 5 map at radius 2: anchors are 2 rows of 3
    with pytest.raises(ValueError, match="3 x 5 map"):
        sparse_affinity(pairs, 3, 5, radius=2)
    affinity = sparse_affinity(torch.zeros(4, 4 * 3), 5, 5, radius=2)
    assert affinity.indices().shape[1] == 25 + 2 * 4 * 12 and affinity.to_dense().trace() == 25


def test_affinities_by_hand_on_five_by_five_cells():
    pairs = torch.arange(1, 49, dtype=torch.float32).view(4, 12) / 100  # radius 2, offsets (0,1) (1,-1) (1,0) (1,1)
    dense = sparse_affinity(pairs, 5, 5, radius=2).to_dense().view(5, 5, 5, 5)
    assert dense[0, 1, 0, 2] == dense[0, 2, 0, 1] == pairs[0, 0]  # the first anchor is cell (0, 1)
    assert dense[0, 1, 1, 0] == pairs[1, 0] and dense[3, 3, 4, 4] == pairs[3, 11]
    assert dense[0, 0, 0, 1] == 0 and dense[0, 0, 1, 0] == 0  # column 0 has no anchor
    assert dense[4].sum(dim=(1, 2)).min() > 1 and dense[4, :, 4].trace() == 5


def test_the_walk_of_a_triangle_by_hand():
    affinity = torch.tensor([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]])
    scores = torch.tensor([[1.0, 0.0, 3.0]])
    # beta 2: columns (1, 1/4) / (5/4) = (0.8, 0.2); one step: 0.8 and 0.2; two: 0.68 and 0.32
    for layout in ("dense", "coo", "csr"):
        once = propagate(LAYOUTS[layout](affinity), scores, beta=2, steps=1)
        twice = propagate(LAYOUTS[layout](affinity), scores, beta=2, steps=2)
        torch.testing.assert_close(once, torch.tensor([[0.8, 0.2, 3.0]]))
        torch.testing.assert_close(twice, torch.tensor([[0.68, 0.32, 3.0]]))


def test_columns_are_normalised_not_rows():
    affinity = torch.tensor([[1.0, 1.0], [0.0, 1.0]])  # not symmetric, to tell the two apart
    for layout in LAYOUTS:
        walked = propagate(LAYOUTS[layout](affinity), torch.tensor([[1.0, 0.0]]), beta=1, steps=1)
        torch.testing.assert_close(walked, torch.tensor([[1.0, 0.5]]))


def test_entries_given_twice_add_up_before_the_power():
    indices = torch.tensor([[0, 0, 1, 1, 0], [1, 1, 0, 1, 0]])
    affinity = torch.sparse_coo_tensor(indices, torch.tensor([0.25, 0.25, 0.5, 1.0, 1.0]), (2, 2))
    scores = torch.rand(2, 2)
    torch.testing.assert_close(propagate(affinity, scores), propagate(affinity.to_dense(), scores))


def test_scores_and_affinity_are_left_as_they_were():
    affinity, scores = random_graph(8, 0.5, 0), torch.rand(2, 8)
    for layout in ("dense", "coo"):
        given_, before = LAYOUTS[layout](affinity.clone()), scores.clone()
        propagate(given_, scores, steps=3)
        assert torch.equal(given_.to_dense(), affinity) and torch.equal(scores, before)


def test_double_stays_double_and_half_is_computed_in_float32():
    affinity, scores = random_graph(8, 0.5, 0), torch.rand(2, 8)
    for layout in ("dense", "coo"):
        form = LAYOUTS[layout]
        assert propagate(form(affinity.double()), scores).dtype == torch.float64
        assert propagate(form(affinity.bfloat16()), scores.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("shapes", [((3, 4), (1, 4)), ((4, 4), (1, 5)), ((4, 4), (4,))])
def test_shapes_that_do_not_belong_together_are_refused(shapes):
    with pytest.raises(ValueError, match="N x N"):
        propagate(torch.ones(shapes[0]), torch.ones(shapes[1]))


def test_no_classes_no_scores():
    for layout in ("dense", "coo"):
        assert propagate(LAYOUTS[layout](torch.eye(4)), torch.zeros(0, 4)).shape == (0, 4)


def test_the_walk_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        propagate(sparse_affinity(torch.rand(34, 8 * 4), 12, 12), torch.rand(2, 144))


def test_the_walk_gives_torch_its_threads_back():
    torch.set_num_threads(2)
    propagate(sparse_affinity(torch.rand(34, 8 * 4), 12, 12), torch.rand(2, 144))
    with pytest.raises(ValueError):
        sparse_affinity(torch.rand(3, 4), 12, 12)
    assert torch.get_num_threads() == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_walks_the_same():
    pairs, scores = torch.rand(34, 10 * 9), torch.rand(3, 14 * 17)
    expected = propagate(sparse_affinity(pairs, 14, 17), scores)
    walked = propagate(sparse_affinity(pairs.cuda(), 14, 17), scores.cuda())
    torch.testing.assert_close(walked.cpu(), expected)
