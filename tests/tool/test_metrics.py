"""Figures against independent implementations: scikit-learn, and boundary IoU written plainly, one mask at a time."""

import numpy as np
import pytest
from golden_inputs import load
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from tool.metrics import (
    THRESHOLDS,
    Counts,
    ThresholdSweep,
    best_threshold,
    boundary_iou,
    boundary_width,
    choice,
    choice_of_few,
    confusion,
    iou,
    kfold,
    mean_iou,
    mean_ious,
    measures,
    over_experiments,
    split_folds,
    sure_powers,
)

NAMES = ("background", "a", "b", "c")
SIDES = st.integers(1, 9)


@st.composite
def images(draw, count=3):
    """Pairs (truth with 255, predicted), all of one size."""
    shape = draw(st.tuples(SIDES, SIDES))
    truth = hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 3, 255]))
    predicted = hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 3]))
    return draw(st.lists(st.tuples(truth, predicted), min_size=1, max_size=count))


@given(images())
@settings(max_examples=150, deadline=None)
def test_precision_and_recall_are_those_of_scikit_learn(pairs):
    truth, predicted = (np.concatenate([pair[k].ravel() for pair in pairs]) for k in (0, 1))
    counts = Counts(4, boundaries=True)
    for pair in pairs:
        counts.add_labels(*pair)
    result = measures(counts.confusions()[0], counts.boundary[0], NAMES)
    valid = truth != 255
    if not valid.any():
        assert result["absent"] == list(NAMES) and result["mean_recall"] == 0
        return
    truth, predicted = truth[valid], predicted[valid]
    labels = range(4)
    assert np.array_equal(counts.confusions()[0], confusion_matrix(truth, predicted, labels=labels))
    options = {"labels": labels, "zero_division": 0}
    precision, recall, _, _ = precision_recall_fscore_support(truth, predicted, **options)
    np.testing.assert_allclose(list(result["precision"].values()), 100 * precision)
    np.testing.assert_allclose(list(result["recall"].values()), 100 * recall)
    there = sorted({*truth.tolist(), *predicted.tolist()})
    assert result["absent"] == [NAMES[k] for k in labels if k not in there]
    macro = precision_recall_fscore_support(truth, predicted, labels=there, average="macro", zero_division=0)
    np.testing.assert_allclose([result["mean_precision"], result["mean_recall"]], 100 * np.array(macro[:2]))
    micro = precision_recall_fscore_support(truth, predicted, labels=[1, 2, 3], average="micro", zero_division=0)
    foreground = [result["foreground_precision"], result["foreground_recall"]]
    np.testing.assert_allclose(foreground, 100 * np.array(micro[:2]))
    total = result["miou_present"] + result["false_positive"] + result["false_negative"]
    assert total == pytest.approx(100)  # hit, wrongly predicted and missed make the union


def test_figures_by_hand():
    """Truth: two a, four b, two c, two background; of them 1, 3, 0 and 2 are hit."""
    counts = np.array([[2, 0, 0, 0], [0, 1, 1, 0], [1, 0, 3, 0], [0, 0, 2, 0]])
    result = measures(counts, np.zeros((3, 4), int), NAMES)
    assert result["classes"] == pytest.approx({"background": 200 / 3, "a": 50, "b": 300 / 7, "c": 0})
    assert result["precision"] == pytest.approx({"background": 200 / 3, "a": 100, "b": 50, "c": 0})
    assert result["recall"] == pytest.approx({"background": 100, "a": 50, "b": 75, "c": 0})
    assert result["foreground_precision"] == pytest.approx(400 / 7)  # of one a and six b, four are right
    assert result["foreground_recall"] == pytest.approx(400 / 8)
    assert result["false_positive"] == pytest.approx(np.mean([100 / 3, 0, 300 / 7, 0]))
    assert result["false_negative"] == pytest.approx(np.mean([0, 50, 100 / 7, 100]))


# ---------------------------------------------------------------- boundary IoU


def inner_part(mask, times):
    """A mask eroded so many times by a 3 x 3 square; what is outside of the image is no mask."""
    for _ in range(times):
        padded = np.pad(mask, 1)
        height, width = mask.shape
        mask = np.all([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0)
    return mask


def direct_boundaries(truth, predicted, label):
    """Pixels that both boundaries, the predicted and the true one have. Ignored pixels are of neither mask."""
    width = max(1, round(0.02 * np.sqrt(truth.shape[0] ** 2 + truth.shape[1] ** 2)))
    masks = [truth == label, (predicted == label) & (truth != 255)]
    true, found = (mask & ~inner_part(mask, width) for mask in masks)
    return [(true & found).sum(), found.sum(), true.sum()]


@given(images())
@settings(max_examples=150, deadline=None)
def test_boundaries_of_small_images(pairs):
    counts = Counts(4, boundaries=True)
    for pair in pairs:
        counts.add_labels(*pair)
    direct = np.sum([[direct_boundaries(*pair, label) for label in range(4)] for pair in pairs], axis=0)
    assert np.array_equal(counts.boundary[0], direct.T)


def blocks(rng, shape, values, size):
    """A label image of squares, so that masks have an inside."""
    coarse = rng.choice(values, [-(-n // size) for n in shape])
    return coarse.repeat(size, 0).repeat(size, 1)[: shape[0], : shape[1]].astype(np.uint8)


@given(st.integers(0, 2**32 - 1), st.integers(20, 130), st.integers(20, 130), st.integers(2, 30))
@settings(max_examples=40, deadline=None)
def test_boundaries_of_every_threshold(seed, height, width, size):
    """Wide boundaries and large regions, at every threshold of a sweep."""
    rng = np.random.default_rng(seed)
    truth = blocks(rng, (height, width), [0, 0, 1, 2, 3, 255], size)
    values = np.float32([0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3])  # on the thresholds, and between them
    maps = {k: values[blocks(rng, (height, width), range(7), size + 1 + k)] for k in (0, 2)}
    thresholds = [0.05, 0.1, 0.15, 0.2, 0.29]
    sweep = ThresholdSweep(4, thresholds, boundaries=True)
    for _ in range(2):
        sweep.add(truth, maps)
    for threshold, boundary, counts in zip(thresholds, sweep.boundary, sweep.confusions()):
        stack = np.stack([np.full(truth.shape, threshold, np.float32), maps[0], np.zeros_like(maps[0]), maps[2]])
        predicted = stack.argmax(0)
        direct = [direct_boundaries(truth, predicted, label) for label in range(4)]
        assert np.array_equal(boundary, 2 * np.transpose(direct))
        assert np.array_equal(counts, 2 * confusion(truth, predicted, 4))


@given(images(1), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_what_is_predicted_on_ignored_pixels_changes_no_figure(pairs, seed):
    ((truth, predicted),) = pairs
    other = np.where(truth == 255, np.random.default_rng(seed).integers(0, 4, truth.shape), predicted)
    results = []
    for labels in (predicted, other):
        counts = Counts(4, boundaries=True)
        counts.add_labels(truth, labels)
        results.append(measures(counts.confusions()[0], counts.boundary[0], NAMES))
    assert results[0] == results[1]


def test_boundary_iou_by_hand():
    """A 5 x 5 square at the corner of 20 x 30 pixels, predicted one row too low: boundaries are one pixel wide."""
    truth, predicted = np.zeros((20, 30), np.uint8), np.zeros((20, 30), np.uint8)
    truth[:5, :5], predicted[1:6, :5] = 1, 1
    assert boundary_width(truth.shape) == 1
    counts = Counts(2, boundaries=True)
    counts.add_labels(truth, predicted)
    # both have 16 pixels around a 3 x 3 inside; eight of them, four a side, are common
    assert counts.boundary[0, :, 1].tolist() == [8, 16, 16]
    assert boundary_iou(counts.boundary)[0, 1] == pytest.approx(8 / 24)
    assert boundary_width((375, 500)) == 12 and boundary_width((1, 1)) == 1


def test_a_perfect_prediction_has_every_boundary():
    truth = np.array(np.random.default_rng(0).choice([0, 1, 2, 255], (40, 50)), np.uint8).repeat(3, 0).repeat(3, 1)
    counts = Counts(4, boundaries=True)
    counts.add_labels(truth, np.where(truth == 255, 1, truth))
    assert boundary_iou(counts.boundary)[0, :3].tolist() == [1, 1, 1] and np.isnan(boundary_iou(counts.boundary)[0, 3])


# ---------------------------------------------------------------- folds and experiments


@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
@settings(max_examples=50, deadline=None)
def test_kfold_against_choosing_by_hand(seed, k):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 30, (k, 3, 4, 4))
    thresholds = [0.1, 0.2, 0.3]
    pooled, chosen = np.zeros((4, 4), int), []
    for fold in range(k):
        others = sum(counts[other] for other in range(k) if other != fold)
        means = [np.nan_to_num(iou(matrix)).mean() for matrix in others]
        chosen.append(int(np.argmax(means)))
        pooled += counts[fold, chosen[-1]]
    result = kfold(counts, thresholds)
    assert result["k"] == k and result["thresholds"] == [thresholds[t] for t in chosen]
    assert (result["miou"] / 100, result["miou_present"] / 100) == pytest.approx(mean_iou(iou(pooled)))


def test_a_threshold_that_all_folds_agree_on_gives_the_oracles_score():
    counts = np.zeros((3, 2, 2, 2), int)
    counts[:, 0], counts[:, 1] = [[5, 5], [5, 5]], [[9, 1], [2, 8]]
    assert best_threshold(counts.sum(0)) == 1
    result = kfold(counts, [0.1, 0.2])
    assert result["thresholds"] == [0.2] * 3 and result["miou"] / 100 == pytest.approx(mean_iou(iou(counts[0, 1]))[0])


def test_folds_are_even_and_the_same_for_any_order_of_the_list():
    ids = [f"i{n}" for n in range(23)]
    parts = split_folds(ids, 5, seed=0)
    assert sorted(np.bincount(list(parts.values()))) == [4, 4, 5, 5, 5]
    assert split_folds(ids[::-1], 5, seed=0) == parts != split_folds(ids, 5, seed=1)
    assert sorted(split_folds(ids, 23, seed=3).values()) == list(range(23))


def test_mean_and_deviation_over_experiments():
    results = [{"miou": m, "classes": {"a": c}, "kfold": {"miou": m - 1}} for m, c in ((10, 1.0), (20, 1.0), (60, 4.0))]
    spread = over_experiments(results, ["miou"])
    assert spread["mean"] == {"miou": 30, "kfold_miou": 29, "classes": {"a": 2}}
    assert spread["std"]["miou"] == spread["std"]["kfold_miou"] == pytest.approx(700**0.5)
    assert spread["std"]["classes"] == pytest.approx({"a": 3**0.5})


# ---------------------------------------------------------------- thresholds, against released values and brute force


def test_threshold_sweep_is_the_released_one():
    golden = load("evaluation")
    np.testing.assert_allclose(THRESHOLDS, golden["thresholds"], atol=1e-12)
    sweep = ThresholdSweep(21)
    for k in range(4):
        sweep.add(golden[f"gt{k}"], dict(zip(golden[f"keys{k}"].tolist(), golden[f"cam{k}"])))
    np.testing.assert_allclose(100 * np.nan_to_num(iou(sweep.confusions())), golden["iou"], atol=1e-7)
    np.testing.assert_allclose([mean_ious(c)["miou"] for c in sweep.confusions()], golden["miou"], atol=1e-7)


def sweep_reference(truth, scores, threshold, num_labels):
    """The released formulation: a stack with the threshold as background, argmax, one threshold at a time."""
    stack = np.zeros((num_labels, *truth.shape), np.float32)
    stack[0] = threshold
    for key, score in scores.items():
        stack[key + 1] = score
    return confusion(truth, stack.argmax(0), num_labels)


@given(st.data(), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=150, deadline=None)
def test_sweep_counts_as_one_pass_a_threshold_does(data, classes, height, width):
    """Scores sit on the thresholds as often as beside them, so ties are exercised."""
    thresholds = [0.1, 0.2, 0.3]
    values = st.sampled_from([0.0, 0.05, 0.1, 0.2, 0.25, 0.3, 0.9])
    truth = data.draw(hnp.arrays(np.uint8, (height, width), elements=st.sampled_from([*range(classes + 1), 255])))
    keys = data.draw(st.lists(st.integers(0, classes - 1), min_size=1, unique=True))
    scores = {k: data.draw(hnp.arrays(np.float32, (height, width), elements=values.map(np.float32))) for k in keys}
    sweep = ThresholdSweep(classes + 1, thresholds)
    sweep.add(truth, scores)
    for threshold, counts in zip(thresholds, sweep.confusions()):
        assert np.array_equal(counts, sweep_reference(truth, scores, threshold, classes + 1))


def test_iou_by_hand_and_both_means():
    truth = np.array([[0, 0, 1], [1, 255, 2]])
    predicted = np.array([[0, 1, 1], [1, 1, 1]])
    values = iou(confusion(truth, predicted, 4))
    assert values[:3].tolist() == [0.5, 0.5, 0.0] and np.isnan(values[3])
    assert mean_iou(values) == (pytest.approx(1 / 4), pytest.approx(1 / 3))


def test_a_choice_against_choosing_by_hand():
    """Three folds, two settings; the third fold alone likes the first setting best, by so much that all together do."""
    good, fair, bad = (np.array([[90 + k, 10 - k], [10 - k, 90 + k]]) for k in (9, 5, -40))
    counts = np.stack([[fair, good], [fair, good], [20 * good, 20 * bad]])
    setting, figures = choice(counts, ["first", "second"])
    assert setting == "first" and figures["folds"] == ["first", "first", "second"]

    def miou(matrix):
        return 100 * np.mean([matrix[k, k] / (matrix[k].sum() + matrix[:, k].sum() - matrix[k, k]) for k in (0, 1)])

    assert figures["miou"] == pytest.approx(miou(2 * fair + 20 * bad))
    assert figures["std"] == pytest.approx(np.std([miou(fair), miou(fair), miou(bad)], ddof=1))


def test_sure_powers_by_hand():
    """Of powers 1, 4 and 9, by F-measures that weigh precision four times as much as recall."""
    few = np.array([[100, 0], [10, 90]])
    more = np.array([[90, 10], [5, 95]])
    most = np.array([[60, 40], [0, 100]])
    powers = [1, 4, 9]
    assert sure_powers(np.stack([few, more, most]), powers, 4) == (1, 9)  # objects .99 .91 .73, background .91 .94 .96
    assert sure_powers(np.stack([few, more, more]), powers, 1) == (1, 4)
    assert sure_powers(np.stack([few, few, more]), powers, 9) == (1, 9)


def test_what_few_images_choose_is_scored_on_the_others():
    rng = np.random.default_rng(1)
    counts = rng.integers(1, 9, (6, 3, 2, 2))
    found = choice_of_few(counts, "abc", 2, 50, seed=4)
    again, ious, picked = np.random.default_rng(4), [], []
    for _ in range(50):
        order = again.permutation(6)
        mine, others = counts[order[:2]].sum(0), counts[order[2:]].sum(0)
        scores = [[np.mean(np.diag(c) / (c.sum(0) + c.sum(1) - np.diag(c))) for c in part] for part in (mine, others)]
        picked.append(int(np.argmax(scores[0])))
        ious.append(100 * scores[1][picked[-1]])
    most = max(set(picked), key=picked.count)
    assert found["miou"] == pytest.approx(np.mean(ious)) and found["std"] == pytest.approx(np.std(ious, ddof=1))
    assert len(set(picked)) > 1 and found["setting"] == "abc"[most] and found["share"] == picked.count(most)
