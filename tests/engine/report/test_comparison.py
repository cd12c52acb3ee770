"""Tables of several runs."""

from engine.report.comparison import cells, curve_table, gather, row_table, spread
from engine.studies import Row
from tool.io.files import write_json, write_text


def test_spread_by_hand():
    assert spread([1.0, 2.0, 3.0]) == "2.0 ± 1.0"  # of a sample
    assert spread([4.25]) == "4.2"


def test_cells_hold_the_figure_without_an_oracle_where_there_is_one():
    result = {"miou_present": 1.0, "mean_precision": 2.0, "mean_recall": 3.0}
    assert cells([result]) == ["1.0", "2.0", "3.0", "1"]
    assert cells([result | {"kfold": {"miou_present": 0.5}}]) == ["0.5", "2.0", "3.0", "1"]


def test_rows_and_curves_by_hand(tmp_path):
    for seed, miou in ((0, 50.0), (2, 54.0)):
        folder = tmp_path / f"gpp_seed{seed}"
        score = {"miou_present": miou, "mean_precision": 60.0, "mean_recall": 70.0, "kfold": {"miou_present": 49.0}}
        write_json(folder / "maps.json", {"commands": [], "scores": {"report": score, "released": score}})
        write_text(folder / "log.jsonl", f'{{"epoch": 5, "miou_present": {miou}}}\n')
    write_text(tmp_path / "gpp_seed3" / "log.jsonl", '{"epoch": 5, "miou_present": 1}\n')  # not done
    rows = {"gpp": Row("GPP", "", (66.5, None, 54.2)), "never": Row("never run", "")}
    assert list(gather(tmp_path, "gpp", "maps")) == [0, 2]
    row = row_table(tmp_path, rows).splitlines()[2:]
    assert [" ".join(line.split()) for line in row] == [
        "| GPP | 49.0 ± 0.0 | 60.0 ± 0.0 | 70.0 ± 0.0 | 2 | 52.0 ± 2.8 | 49.0 ± 0.0 | 66.5 | | 54.2 |"
    ]
    curve = curve_table(tmp_path, rows).splitlines()[0::2]
    assert [" ".join(line.split()) for line in curve] == ["| | epoch 6 |", "| GPP | 52.0 |"]
