"""Dense CRF against golden values."""

import numpy as np
from golden_inputs import load

from tool import crf
from tool.crf import RELEASED, background_score, crf_with_alphas
from tool.pseudo_labels import stack_scores


def test_crf_is_the_released_one_with_one_lattice_for_both_alphas():
    golden = load("crf")
    result = crf_with_alphas(golden["img"], dict(zip(golden["keys"].tolist(), golden["cams"])), [2, 21])
    for alpha in (2, 21):
        assert list(result[alpha]) == [0, *(golden["keys"] + 1).tolist()]
        np.testing.assert_allclose(np.stack(list(result[alpha].values())), golden[f"crf_{alpha:02d}"], atol=1e-5)
        np.testing.assert_allclose(sum(result[alpha].values()), 1, atol=1e-5)


def test_crf_of_several_alphas_falls_back_to_one_after_the_other(monkeypatch):
    """Where the common softmax would underflow, or the image is large, each alpha is refined by itself."""
    golden = load("crf")
    inputs = golden["img"], dict(zip(golden["keys"].tolist(), golden["cams"])), [2, 19, 21]
    together = crf_with_alphas(*inputs)
    for name, value in (("SMALLEST_SHARE", 2.0), ("TOGETHER_VALUES", 0)):
        with monkeypatch.context() as patch:
            patch.setattr(crf, name, value)
            apart = crf_with_alphas(*inputs)
        for alpha, scores in together.items():
            assert list(scores) == list(apart[alpha])
            for key in scores:
                np.testing.assert_allclose(apart[alpha][key], scores[key], atol=1e-5)


def test_background_score_by_hand():
    keys, scores = stack_scores({3: np.array([[0.5, 0.2]]), 1: np.array([[0.1, 0.9]])}, 2)
    assert keys.tolist() == [0, 2, 4]
    np.testing.assert_allclose(scores[:, 0], [[0.25, 0.01], [0.1, 0.9], [0.5, 0.2]], atol=1e-6)
    np.testing.assert_allclose(background_score(np.zeros((1, 1, 1)), 19), 1)


def test_widths_that_follow_the_size_of_an_image():
    rng = np.random.default_rng(0)
    image, cams = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8), {3: rng.random((30, 40), dtype=np.float32)}
    follows = crf_with_alphas(image, cams, [4], pairwise=RELEASED._replace(side=80))
    halved = crf_with_alphas(image, cams, [4], pairwise=RELEASED._replace(sxy=1.5, bilateral_sxy=40))
    released = crf_with_alphas(image, cams, [4])
    assert np.array_equal(follows[4][0], halved[4][0]) and not np.allclose(follows[4][0], released[4][0], atol=1e-3)
