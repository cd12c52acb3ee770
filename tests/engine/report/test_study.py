"""The picture of a study: which photographs it shows, and what it says of the failure."""

import numpy as np

from engine.report.study import pick_photographs, what_went_wrong


def rows(text):
    """Digits, a row a word -> H x W uint8; # is 255."""
    return np.array([[255 if c == "#" else int(c) for c in row] for row in text.split()], np.uint8)


def test_two_without_a_common_class_and_the_worst():
    truth = {"a": "0011", "b": "0110", "c": "0022", "d": "0033", "e": "3300"}
    labels = {"a": "0011", "b": "0110", "c": "2222", "d": "3300", "e": "3300"}
    truth, labels = ({k: rows(v) for k, v in some.items()} for some in (truth, labels))
    assert pick_photographs(truth, labels) == (["a", "c", "d"], 0.0)  # b shares a class with a, d is the worst


def test_the_commonest_wrong_pixel_in_words():
    assert what_went_wrong(rows("0011 0#11"), rows("1111 0100")) == "50 % of what is labelled is background"
    assert what_went_wrong(rows("0011 0#11"), rows("0010 0110")) == "50 % of the objects is not found"
    assert what_went_wrong(rows("0011 0011"), rows("0022 0021")) == "75 % of the objects has another class"
