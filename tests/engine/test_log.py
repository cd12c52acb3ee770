"""The log of a training; a loss that stays where always predicting the frequencies is."""

import math

import numpy as np
import pytest

from engine.log import EARLY, Learning, Log, chance_loss


def test_a_broken_line_of_the_log_is_dropped(tmp_path):
    """Lines are appended, so a full disk may leave a part of the last one; resuming must not stumble over it."""
    (tmp_path / "log.jsonl").write_text('{"epoch": 0, "total": 1.5}\n{"epoch": 1, "tot')
    Log(tmp_path, first_epoch=1).close()
    assert (tmp_path / "log.jsonl").read_text() == '{"epoch": 0, "total": 1.5}\n'


def test_the_loss_at_chance_by_hand():
    labels = np.array([[1, 0], [0, 0], [0, 0], [0, 0]])  # a quarter, and never
    by_hand = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / 2
    assert chance_loss(labels) == pytest.approx(by_hand, abs=1e-6)


def watched(losses):
    learning = Learning(0.5, "AdamW")
    for loss in losses:
        learning.add({"cls": loss})
    return learning


def test_a_loss_at_chance_is_said_once_and_at_the_end():
    learning = watched([0.1] * (EARLY // 2) + [0.49] * (EARLY // 2))  # it is the last steps that count
    assert learning.early(EARLY - 1) == ""  # too early to say
    assert learning.early(EARLY) == (
        "warning: nothing learned yet: classification loss 0.490, 0.500 by always predicting how frequent the classes "
        "are; try AdamW"
    )
    assert learning.early(2 * EARLY) == ""
    assert learning.late().startswith("warning: has learned nothing: classification loss 0.490")


def test_a_loss_that_falls_and_nothing_to_look_at():
    learning = watched([0.7] * (EARLY // 2) + [0.4] * (EARLY // 2))
    assert learning.early(EARLY) == learning.late() == "" == watched([]).late()
    nothing = Learning()
    nothing.add({"total": 1.0})
    assert nothing.early(EARLY) == nothing.late() == ""
