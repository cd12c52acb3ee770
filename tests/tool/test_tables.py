"""Tables, CSV files and plots of scores: every number stands where it belongs, absent classes are said."""

import csv

import numpy as np
import pytest

from tool.io.files import UserError
from tool.metrics import over_experiments
from tool.tables import COLUMNS, FIGURES, check_plot, table, write_csv, write_plot

NAMES = ["background", "cow $x$", "dog"]


def result(shift=0.0, absent=("dog",), thresholds=(0.1, 0.2), **more):
    """A result of evaluation.py whose figures are all different."""
    classes = {
        figure: {name: 10.0 * k + n + shift for n, name in enumerate(NAMES)} for k, figure in enumerate(COLUMNS, 1)
    }
    figures = {figure: 60.0 + k + shift for k, figure in enumerate(FIGURES)}
    swept = {
        "thresholds": list(thresholds),
        "miou_by_threshold": [50.0] * len(thresholds),
        "best_threshold": thresholds[0] if thresholds else None,
        "oracle_threshold": len(thresholds) > 1,
    }
    return {"absent": list(absent), "dict_dir": "dict", "list": "x.txt"} | classes | figures | swept | more


def cells(text):
    """{first column: the others} of the lines of a table."""
    rows = [line.split("  ") for line in text.splitlines()]
    rows = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    return {row[0]: row[1:] for row in rows if row}


def test_a_table_has_a_row_a_class_and_says_what_is_absent():
    text = table(result())
    rows = cells(text)
    assert rows["class"] == [*COLUMNS.values()]
    assert rows["background"] == ["10.00", "20.00", "30.00", "40.00"] and rows["dog"] == ["absent"]
    assert "mIoU 60.00 (absent classes count as 0, as released), 61.00 over the 2 present classes" in text
    assert "precision 62.00, recall 63.00" in text and "all foreground 64.00, 65.00" in text
    assert "false positives 66.00, false negatives 67.00" in text and "boundary IoU 68.00" in text
    assert "threshold 0.10 is the best of 2 on these very masks: an oracle" in text


def test_an_oracle_is_said_only_where_there_is_one():
    assert "oracle" not in table(result(thresholds=(0.3,))) and "oracle" not in table(result(thresholds=()))
    folds = {"k": 3, "miou": 41.0, "miou_present": 42.0, "thresholds": [0.1, 0.2, 0.1]}
    text = table(result(kfold=folds))
    assert "without an oracle: mIoU 41.00 (42.00 of present classes); each of 3 parts" in text
    assert text.endswith("others: 0.10 0.20 0.10")


def test_several_experiments_stand_side_by_side():
    results = {"one": result(), "two": result(shift=2.0, absent=())}
    rows = cells(table({"experiments": results} | over_experiments([*results.values()], FIGURES)))
    assert rows["one"] == ["two", "mean", "std"]
    assert rows["background"] == ["10.00", "12.00", "11.00", f"{np.std([10, 12], ddof=1):.2f}"]
    assert rows["dog"][:3] == ["12.00", "14.00", "13.00"]  # absent in one of them only
    for k, text in enumerate(FIGURES.values()):
        assert rows[text][:3] == [f"{60 + k:.2f}", f"{62 + k:.2f}", f"{61 + k:.2f}"]
    assert rows["threshold (an oracle)"] == ["0.10", "0.10"]


def test_a_csv_has_every_number(tmp_path):
    write_csv(tmp_path / "x.csv", {"one": result(), "two": result(shift=2.0)})
    rows = list(csv.reader((tmp_path / "x.csv").read_text().splitlines()))
    assert len(rows) == 1 + 2 * (len(NAMES) + 2)
    assert rows[0] == ["experiment", "class", "iou", "precision", "recall", "boundary_iou"]
    assert rows[1] == ["one", "background", "10.0", "20.0", "30.0", "40.0"]
    assert rows[3] == ["one", "dog", "", "", "", ""]
    assert rows[4] == ["one", "mean of present", "61.0", "62.0", "63.0", "68.0"]
    assert rows[5] == ["one", "mean, absent as 0", "60.0", "", "", ""] and rows[6][0] == "two"


@pytest.mark.parametrize("name", ["x.jpg", "x", "png"])
def test_a_plot_has_one_of_three_endings(tmp_path, name):
    with pytest.raises(UserError, match="a plot is a .png, .pdf or .svg file"):
        check_plot(tmp_path / name)
    for suffix in (".png", ".PDF", ".svg"):
        check_plot(tmp_path / f"x{suffix}")


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("thresholds", [(0.1, 0.2), ()])
def test_a_plot_shows_present_classes_and_a_curve_where_there_is_one(tmp_path, monkeypatch, several, thresholds):
    from matplotlib.figure import Figure

    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: drawn.append(figure) or save(figure, *a, **k))
    results = {"one": result(thresholds=thresholds)} | ({"two": result(2.0, thresholds=thresholds)} if several else {})
    write_plot(tmp_path / "x.png", results)
    axes = drawn[0].axes
    assert (tmp_path / "x.png").stat().st_size > 1000 and len(axes) == 1 + bool(thresholds)
    bars = axes[-1]
    assert [label.get_text() for label in bars.get_yticklabels()] == NAMES[:2]  # of the absent one there is no bar
    assert [patch.get_width() for patch in bars.patches] == ([11, 12] if several else [10, 11])
    if thresholds:
        curves = [line for line in axes[0].lines if len(line.get_xdata()) == 2]
        assert len(curves) == len(results) and list(curves[0].get_ydata()) == [50, 50]
