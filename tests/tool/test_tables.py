"""Tables, CSV files and plots of scores: every number stands where it belongs, absent classes are said."""

import csv

import numpy as np
import pytest

from tool.io.files import UserError
from tool.metrics import over_experiments, over_methods
from tool.tables import COLUMNS, FIGURES, check_plot, table, write_csv, write_plot, write_tex

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
    assert len(rows) == 1 + 4 * (len(NAMES) + 2)
    assert rows[0] == ["experiment", "class", "iou", "precision", "recall", "boundary_iou"]
    assert rows[1] == ["one", "background", "10.0", "20.0", "30.0", "40.0"]
    assert rows[3] == ["one", "dog", "", "", "", ""]
    assert rows[4] == ["one", "mean of present", "61.0", "62.0", "63.0", "68.0"]
    assert rows[5] == ["one", "mean, absent as 0", "60.0", "", "", ""] and rows[6][0] == "two"
    assert rows[11] == ["mean", "background", "11.0", "21.0", "31.0", "41.0"]
    assert rows[13] == ["mean", "dog", "", "", "", ""] and rows[15] == ["mean", "mean, absent as 0", "61.0", "", "", ""]
    assert rows[16][:2] == ["std", "background"] and float(rows[16][2]) == pytest.approx(np.std([10, 12], ddof=1))
    write_csv(tmp_path / "one.csv", {"one": result()})
    assert len((tmp_path / "one.csv").read_text().splitlines()) == 1 + len(NAMES) + 2


def of_methods():
    """Results of three experiments, two of them of one method -> (result as evaluation.py has it, methods)."""
    results, methods = {"a": result(), "b": result(2.0), "c_1": result(5.0)}, {"her": ["a", "b"], "ours": ["c_1"]}
    return {"experiments": results} | over_methods(results, methods, FIGURES), methods


def test_methods_have_a_column_each():
    whole, _ = of_methods()
    assert "mean" not in whole  # not over experiments of different methods
    assert whole["methods"]["her"]["names"] == ["a", "b"] and whole["methods"]["ours"]["std"]["miou"] is None
    rows = cells(table(whole))
    assert rows["her"] == ["ours"] and rows["background"] == ["11.00 ± 1.41", "15.00"] and rows["dog"] == ["absent"]
    assert rows["mIoU, absent as 0"] == ["61.00 ± 1.41", "65.00"] and rows["experiments"] == ["2", "1"]


def test_a_csv_has_mean_and_deviation_of_each_method(tmp_path):
    whole, methods = of_methods()
    write_csv(tmp_path / "x.csv", whole["experiments"], methods)
    rows = list(csv.reader((tmp_path / "x.csv").read_text().splitlines()))
    kinds = list(dict.fromkeys(row[0] for row in rows[1:]))
    assert kinds == ["a", "b", "c_1", "her: mean", "her: std", "ours: mean", "ours: std"]
    cow = {row[0]: row[2] for row in rows if row[1] == "cow $x$"}
    assert cow["her: mean"] == "12.0" and cow["ours: mean"] == "16.0" and cow["ours: std"] == ""
    assert float(cow["her: std"]) == pytest.approx(np.sqrt(2))


def test_latex_has_the_cells_of_the_table(tmp_path):
    whole, _ = of_methods()
    write_tex(tmp_path / "x.tex", whole)
    lines = [" ".join(line.split()) for line in (tmp_path / "x.tex").read_text().splitlines()]
    assert r"\begin{tabular}{lrr}" in lines and r"\toprule" in lines and lines[-1] == r"\end{tabular}"
    assert r"background & 11.00 $\pm$ 1.41 & 15.00 \\" in lines
    assert r"cow \$x\$ & 12.00 $\pm$ 1.41 & 16.00 \\" in lines
    write_tex(tmp_path / "one.tex", result())
    text = (tmp_path / "one.tex").read_text()
    assert "% threshold 0.10 is the best of 2 on these very masks" in text and "mIoU 60.00" in text


def test_a_best_threshold_at_the_end_of_the_range_is_said():
    says = "best threshold at an end of the range that was tried; --thresholds MIN MAX tries others"
    assert f"0.10: {says}" in table(result()).splitlines()
    for quiet in ((0.0, 0.2), (0.3,), ()):
        assert says not in table(result(thresholds=quiet))
    results = {"a": result(best_threshold=0.15, thresholds=(0.1, 0.15, 0.2)), "b": result(), "c": result()}
    text = table({"experiments": results} | over_experiments([*results.values()], FIGURES))
    assert text.endswith(f"0.10 of b, 0.10 of c: {says}")


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


def test_a_plot_is_as_wide_as_a_column_and_draws_methods_as_one(tmp_path, monkeypatch):
    from matplotlib import rcParams
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda figure, *a, **k: drawn.append((figure, rcParams["pdf.fonttype"])) or save(figure, *a, **k),
    )
    whole, methods = of_methods()
    write_plot(tmp_path / "x.pdf", whole["experiments"], methods)
    write_plot(tmp_path / "y.pdf", {"one": result(thresholds=())})
    (both, kind), (one, _) = drawn
    assert kind == 42 and (both.get_figwidth(), one.get_figwidth()) == (7, 3.4)
    curves, bars = both.axes
    assert [line.get_label() for line in curves.lines if len(line.get_xdata()) == 2] == [
        "mIoU 61.00 ± 1.41, her",
        "mIoU 65.00 at 0.10, ours",
    ]
    assert sorted(patch.get_width() for patch in bars.patches) == [11, 12, 15, 16]
    canvas = FigureCanvasAgg(both)
    canvas.draw()
    label = curves.yaxis.label.get_window_extent(canvas.get_renderer())
    assert "absent" in curves.get_ylabel() and label.y0 >= 0 and label.y1 <= both.bbox.y1
    texts = [text.get_text() for figure in (both, one) for text in figure.findobj(lambda a: hasattr(a, "get_text"))]
    assert not any("dict" in text or "x.txt" in text for text in texts)
    assert sum("mIoU" in text for text in (t.get_text() for t in one.legends[0].get_texts())) == 1
