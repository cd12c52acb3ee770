"""Results of scoring."""

import numpy as np
import pytest

from tool.results import image_iou, labels_of


def test_labels_and_iou_of_one_image_by_hand():
    scores = {0: np.array([[0.1, 0.2, 0.5]], np.float32), 3: np.array([[0.2, 0.2, 0.4]], np.float32)}
    assert labels_of(scores, "cam", 0.15).tolist() == [[4, 1, 1]]
    assert labels_of(scores, "cam", 0.2).tolist() == [[0, 0, 1]]  # background wins at the threshold itself
    assert labels_of(scores, "crf").tolist() == [[3, 0, 0]]
    truth = np.array([[0, 0, 1, 255]], np.uint8)
    assert image_iou(truth, np.array([[0, 1, 1, 5]]), 21) == pytest.approx(100 * (1 / 2 + 1 / 2) / 2)
