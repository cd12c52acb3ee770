"""Tables of a page: rows of runs, each with several seeds, as mean and standard deviation, beside published figures."""

import re
from dataclasses import dataclass

import numpy as np
from tabulate import tabulate

from engine.report.found import read_log
from tool.io.files import UserError, read_json, write_text

HEADERS = ("mIoU", "precision", "recall", "seeds")


@dataclass(frozen=True)
class Row:
    """A row of a table. title: as shown; flags: what makes it; paper: precision, recall, mIoU, or None."""

    title: str
    flags: str
    paper: tuple = (None, None, None)


def gather(folder, name, kind):
    """{seed: scores} of the runs of a row that are done, from folder/NAME_seedN/{kind}.json."""
    paths = {int(path.parent.name.rpartition("seed")[2]): path for path in folder.glob(f"{name}_seed*/{kind}.json")}
    return {seed: read_json(paths[seed])["scores"] for seed in sorted(paths)}


def spread(values):
    """Mean and, of several, standard deviation (of a sample, n - 1) as text."""
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def cells(results):
    """The cells of HEADERS, in percent, of the results of evaluation.py for each seed.

    All are means over the labels that are there, background among them. mIoU is that without an oracle (--kfold) where
    a threshold had to be chosen; precision and recall are those at the best threshold.
    """
    mious = [result.get("kfold", result)["miou_present"] for result in results]
    rates = [[result[name] for result in results] for name in ("mean_precision", "mean_recall")]
    return [*map(spread, (mious, *rates)), str(len(results))]


def pipe_table(lines, headers):
    """Lines of texts, the first of each its name -> a table of Markdown."""
    aligned = ["left", *["right"] * (len(headers) - 1)]
    return tabulate(lines, headers, tablefmt="pipe", disable_numparse=True, colalign=aligned) if lines else ""


def row_table(folder, rows):
    """What was measured of rows, {name: Row}, beside the paper's figures; rows that nobody ran are left out.

    Beside the scores stand the mIoU at the best threshold, an oracle, and that without an oracle in the released range
    of thresholds.
    """
    lines = []
    for name, row in rows.items():
        if scores := list(gather(folder, name, "maps").values()):
            oracle = spread([score["report"]["miou_present"] for score in scores])
            released = spread([score["released"]["kfold"]["miou_present"] for score in scores])
            paper = ["" if value is None else str(value) for value in row.paper]
            lines.append([row.title, *cells([score["report"] for score in scores]), oracle, released, *paper])
    headers = ["", *HEADERS, "oracle", "mIoU, 0.10 to 0.34", "paper: precision", "recall", "mIoU"]
    return pipe_table(lines, headers)


def stage_table(folder, stages):
    """Stages as (name of the row, kind of its scores, key in them), a line for each that is done: {title: stage}."""
    lines = []
    for title, (name, kind, key) in stages.items():
        if results := [scores[key] for scores in gather(folder, name, kind).values()]:
            lines.append([title, *cells(results)])
    return pipe_table(lines, ["", *HEADERS])


def curve_table(folder, rows):
    """mIoU after each epoch that was validated, the mean over seeds, a line a row."""
    curves = {}
    for name, row in rows.items():
        runs = [read_curve(folder / f"{name}_seed{seed}" / "log.jsonl") for seed in gather(folder, name, "maps")]
        epochs = sorted(set.intersection(*map(set, runs))) if runs else []
        curves[row.title] = {epoch: f"{np.mean([run[epoch] for run in runs]):.1f}" for epoch in epochs}
    epochs = sorted(set().union(*curves.values()))
    lines = [[title, *(curve.get(epoch, "") for epoch in epochs)] for title, curve in curves.items() if curve]
    return pipe_table(lines, ["", *(f"epoch {epoch + 1}" for epoch in epochs)])


def read_curve(path):
    """{epoch: mIoU over present labels} of the epochs of a log.jsonl that were validated."""
    return {record["epoch"]: record["miou_present"] for record in read_log(path) if "miou_present" in record}


def read_page(page, names):
    """The text of a Markdown page; UserError where it is not there, or has no place for one of the parts."""
    if not page.is_file():
        raise UserError(f"{page}: no such page; --page takes one with places for {', '.join(names)}")
    text = page.read_text(encoding="utf-8")
    for name in names:
        if not place_of(name).search(text):
            raise UserError(f"{page}: has no place for {name}, <!-- {name} --> and <!-- end of {name} -->")
    return text


def place_of(name):
    return re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)


def fill(page, parts):
    """Write parts, {name: text}, into a Markdown page, each between its two marks; UserError as `read_page`."""
    text = read_page(page, parts)
    for name, part in parts.items():
        text = place_of(name).sub(lambda found, part=part: f"{found[1]}{part}\n{found[2]}", text)
    write_text(page, text)
