"""Names of classes that may be a mistake."""

from itertools import combinations

import pytest

from tool.io.files import UserError
from voc12.classes import VOC_CLASSES, alike, ask_about_names

ONE_CLASS = "Bird bird|brid bird|birds bird|zbra zebra|zebbra zebra|zibra zebra|hot_dog hot-dog|hotdog hot_dog"
ONE_CLASS += "|traffic_light trafic_Light"
TWO = "cat car|boat goat|cat coat|typea typeb|type typea|class_1 class_2|grade_A grade_B|defect10 defect01"
TWO += "|黑色汽车 白色汽车"


@pytest.mark.parametrize("pair", ONE_CLASS.split("|"))
def test_names_that_look_like_one_class(pair):
    one, other = pair.split()
    assert alike(one, other) and alike(other, one)
    with pytest.raises(UserError, match=f"^x.csv: '{other}' .2 photographs. and '{one}' .3 photographs. look like one"):
        ask_about_names({one: 3, "okapi": 1, other: 2}, "x.csv")


@pytest.mark.parametrize("pair", TWO.split("|"))
def test_names_that_are_two_classes(pair):
    one, other = pair.split()
    assert not alike(one, other) and not alike(other, one)


def test_no_two_of_vocs_classes_look_like_one():
    assert not [pair for pair in combinations(VOC_CLASSES, 2) if alike(*pair)]
