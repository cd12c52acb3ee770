"""Curves of the page: which there are, what is said beside them, and that their colours are the style sheet's."""

import re
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from engine.report.charts import svg, threshold_chart, training_charts

EPOCHS = [
    {"epoch": 0, "steps": 3, "lr": 0.01, "phase": "warm-up", "seconds": 1.0, "total": 0.7, "attract": 0.0},
    {
        "epoch": 1,
        "steps": 3,
        "lr": 0.005,
        "phase": "triplet",
        "seconds": 1.0,
        "total": 0.3,
        "attract": 0.0,
        "miou": 40.0,
    },
]


def test_a_training_has_curves_of_losses_rate_and_scores():
    losses, rate, scores = training_charts(SimpleNamespace(name="ckpt", epochs=EPOCHS))
    assert [chart["title"] for chart in (losses, rate, scores)] == ["Loss", "Learning rate", "mIoU while training (%)"]
    assert losses["text"] == "Over 2 epochs: total from 0.7 to 0.3."  # what is 0 throughout is no curve
    assert rate["text"] == "Over 2 epochs: lr from 0.01 to 0.005."
    assert scores["text"] == "Over 2 epochs: mIoU, absent as 0 from 40 to 40."
    assert training_charts(SimpleNamespace(name="ckpt", epochs=[])) == []


def test_a_loss_of_zeros_alone_is_said():
    (chart,) = training_charts(SimpleNamespace(name="x", epochs=[{"epoch": 0, "total": 0.0}]))
    assert chart["text"] == "Over 1 epochs: all 0."


@pytest.mark.parametrize("label", ["plain", "a $dollar$", "<b>&amp;"])
def test_a_picture_is_whole_xml_with_the_page_s_colours_and_text_as_text(label):
    picture = svg("x", lambda ax: ax.plot([0, 1], [1, 2], label=label) and ax.legend())
    root = ElementTree.fromstring(picture)
    assert root.attrib["aria-hidden"] == "true"
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert label in texts and "var(--series-1)" in picture and not re.search("#0102[0-9a-f]{2}", picture)
    assert "<metadata" not in picture and "<style" not in picture


def test_pictures_are_the_same_each_time_and_their_ids_are_their_own():
    """Two charts on one page must not share an id."""
    draw = lambda ax: ax.plot([0, 1], [1, 2])  # noqa: E731
    ids = [set(re.findall(r'id="([^"]+)"', svg(name, draw))) for name in ("one", "two")]
    assert svg("one", draw) == svg("one", draw) and ids[0] and not ids[0] & ids[1]


def test_the_threshold_curve_says_its_best_and_its_ends():
    result = {
        "thresholds": [0.1, 0.2, 0.3],
        "miou_by_threshold": [10.0, 30.0, 20.0],
        "best_threshold": 0.2,
        "miou": 30.0,
        "absent": [],
    }
    text = threshold_chart(result)["text"]
    assert text.startswith("Best at 0.20, with mIoU 30.0 (absent classes as 0); 10.0 at 0.10, 20.0 at 0.30.")
    assert "an oracle" in text
