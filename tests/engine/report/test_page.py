"""The page's files: pictures by content, scores that are computed once, and text that stays text."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from engine.report.page import Cache, Pictures, render, shrink_labels, shrink_map


def test_pictures_are_named_by_their_content_and_others_go(tmp_path):
    red, blue = (Image.new("RGB", (20, 10), colour) for colour in ("red", "blue"))
    pictures = Pictures(tmp_path, 100)
    place = pictures.add(red, "a")
    assert (place["width"], place["height"]) == (20, 10) and place["src"].startswith("images/a_")
    assert pictures.add(red, "a") == place != pictures.add(blue, "a")
    assert Image.open(tmp_path / place["src"]).size == (20, 10)
    written = (tmp_path / place["src"]).stat().st_mtime_ns
    again = Pictures(tmp_path, 100)
    again.add(red, "a")
    again.remove_others()
    assert [f"images/{path.name}" for path in (tmp_path / "images").iterdir()] == [place["src"]]
    assert (tmp_path / place["src"]).stat().st_mtime_ns == written
    Pictures(tmp_path, 100).remove_others()
    assert not (tmp_path / "images").exists()


@pytest.mark.parametrize(("size", "fitted"), [((200, 100), (50, 25)), ((40, 30), (40, 30)), ((1000, 2), (50, 1))])
def test_photographs_become_smaller_never_larger(tmp_path, size, fitted):
    assert Pictures(tmp_path, 50).fit(Image.new("RGB", size)).size == fitted


def test_labels_stay_labels_and_scores_are_averaged():
    small, values = Image.new("RGB", (2, 1)), np.array([[0, 0, 7, 7], [0, 0, 7, 7]])
    assert shrink_labels(values, small).tolist() == [[0, 7]]
    assert shrink_map(np.array([[0.0, 1, 2, 3], [0, 1, 2, 3]]), small).tolist() == [[0.5, 2.5]]


def test_what_has_not_changed_is_not_computed_again(tmp_path):
    calls = []

    def scored(key, value=1.5):
        cache = Cache(tmp_path)
        found = cache.get("dict", key, lambda: calls.append(key) or value)
        cache.write()
        return found

    assert [scored("one"), scored("one", 9), scored("two", 2.5), scored("two", 9)] == [1.5, 1.5, 2.5, 2.5]
    assert calls == ["one", "two"]
    for text in ("{", "[]", '{"dict": 3}', '{"dict": {"key": "two"}}'):
        (tmp_path / "scores.json").write_text(text)
        assert scored("two", 4.5) == 4.5


def test_what_no_page_asks_for_any_more_is_forgotten(tmp_path):
    cache = Cache(tmp_path)
    cache.get("old", "k", lambda: 1)
    cache.write()
    cache = Cache(tmp_path)
    cache.get("new", "k", lambda: 2)
    cache.write()
    assert json.loads((tmp_path / "scores.json").read_text()) == {"new": {"key": "k", "value": 2}}


def test_text_is_escaped_and_the_page_needs_no_other_file():
    html = render(name="<img src=x>", root="</style><script>alert(1)</script>", made="2026-01-01T00:00", figures={})
    assert "<script>alert(1)" not in html and "<img src=x>" not in html and "&lt;img src=x&gt;" in html
    assert "<style>" in html and re.findall("<link[^>]*>|src=[^ >]*http[^ >]*", html) == [
        '<link rel="icon" href="data:,">'
    ]
