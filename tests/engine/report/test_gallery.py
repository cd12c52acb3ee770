"""Which images the page shows."""

import random

from engine.report.gallery import pick


def test_a_third_each_of_worst_best_and_random():
    ious = {f"i{k}": float(k) for k in range(10)}
    picked = pick([*ious, "unscored"], ious, {}, 6, random.Random(0))
    assert [i for i, why in picked.items() if why == "worst"] == ["i0", "i1"]
    assert [i for i, why in picked.items() if why == "best"] == ["i9", "i8"]
    assert list(picked.values()).count("random") == 2 and len(picked) == 6
    assert picked == pick([*ious, "unscored"], ious, {}, 6, random.Random(0))
    assert set(pick(list(ious), ious, {}, 100, random.Random(0))) == set(ious)  # each image once
    assert set(pick(list(ious), {}, {}, 4, random.Random(0)).values()) == {"random"}


def test_without_masks_two_thirds_are_the_most_disputed_and_stand_first():
    disputed = {"a": 5.0, "b": 50.0, "c": 0.0, "d": 20.0, "e": 20.0}
    picked = pick([*disputed, "alone"], {}, disputed, 4, random.Random(0))
    assert list(picked)[:3] == ["b", "d", "e"]
    assert list(picked.values()) == ["disputed"] * 3 + ["random"]
    mixed = pick(["x", "y", "z", *disputed], {"x": 1.0, "y": 2.0, "z": 3.0}, disputed, 5, random.Random(0))
    assert list(mixed.items())[:2] == [("b", "disputed"), ("d", "disputed")]
    assert list(mixed.values()).count("worst") == list(mixed.values()).count("best") == 1
