"""Which images the page shows."""

import random

from engine.report.gallery import pick


def test_a_third_each_of_worst_best_and_random():
    ious = {f"i{k}": float(k) for k in range(10)}
    picked = pick([*ious, "unscored"], ious, 6, random.Random(0))
    assert [i for i, why in picked.items() if why == "worst"] == ["i0", "i1"]
    assert [i for i, why in picked.items() if why == "best"] == ["i9", "i8"]
    assert list(picked.values()).count("random") == 2 and len(picked) == 6
    assert picked == pick([*ious, "unscored"], ious, 6, random.Random(0))
    assert set(pick(list(ious), ious, 100, random.Random(0))) == set(ious)  # each image once
    assert set(pick(list(ious), {}, 4, random.Random(0)).values()) == {"random"}
