"""Tables of a page: rows of runs, each with several seeds, as mean and standard deviation, beside published figures."""

import re

import numpy as np

from engine.experiment import Experiment
from engine.report.found import read_log
from tool.io.files import UserError, read_json
from tool.tables import aligned, few_table

HEADERS = ("mIoU", "precision", "recall", "seeds")


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
    rates = [[result[name] for result in results] for name in ("mean_precision", "mean_recall")]
    return [*map(spread, (list(map(miou, results)), *rates)), str(len(results))]


def miou(result):
    """That of evaluation.py without an oracle where it has one, over the labels that are there, in percent."""
    return result.get("kfold", result)["miou_present"]


def pipe_table(lines, headers):
    """Lines of texts, the first of each its name -> a table of Markdown."""
    return aligned(lines, headers, "pipe") if lines else ""


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


def stage_table(folder, stages, of=None, whole=True):
    """Stages as (name of the row, kind of its scores, key in them), a line for each that is done: {title: stage}.

    of: title of the last stage; a line for each before it that is of the same kind has its mIoU in percent of that
    one's, seed by seed. whole: whether the last stage has a line of its own.
    """
    results = {title: stage_results(folder, stage) for title, stage in stages.items()}
    shown = {title: found for title, found in results.items() if found and (whole or title != of)}
    lines = [[title, *cells(list(found.values()))] for title, found in shown.items()]
    for title in stages if of else ():
        if title == of or stages[title][1:] != stages[of][1:]:
            continue
        full = results[of]
        parts = [100 * miou(found) / miou(full[seed]) for seed, found in results[title].items() if seed in full]
        lines += [[f"{title}, % of {of}", spread(parts), "", "", str(len(parts))]] if parts else []
    return pipe_table(lines, ["", *HEADERS])


def stage_results(folder, stage):
    """{seed: result of evaluation.py} of a stage (name of the row, kind of its scores, key in them)."""
    name, kind, key = stage
    return {seed: scores[key] for seed, scores in gather(folder, name, kind).items()}


def class_table(folder, stages):
    """IoU of each class, a column a stage: {title: stage} as for `stage_table`; empty where none is done."""
    found = {title: list(stage_results(folder, stage).values()) for title, stage in stages.items()}
    found = {title: results for title, results in found.items() if results}
    names = next(iter(found.values()))[0]["classes"] if found else ()
    lines = [
        [name, *(spread([result["classes"][name] for result in results]) for results in found.values())]
        for name in names
        if any(result["classes"][name] for results in found.values() for result in results)
    ]
    return pipe_table(lines, ["IoU", *found])


def masks_table(folder, name):
    """How many masks choose.py needs: its curve of the first seed of a row; empty where none is done."""
    seeds = gather(folder, name, "masks")
    return few_table(read_json(Experiment(folder, f"{name}_seed{min(seeds)}").curve)["curve"], "pipe") if seeds else ""


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


def filled(page, parts):
    """A Markdown page with parts, {name: text}, each between its two marks, where the page has such.

    UserError where the page is not there, or has no place for any of them.
    """
    if not page.is_file():
        raise UserError(f"{page}: no such page; give one with places for {', '.join(parts)}")
    text, places = page.read_text(encoding="utf-8"), 0
    for name, part in parts.items():
        place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        text, count = place.subn(lambda found, part=part: f"{found[1]}{part}\n{found[2]}", text)
        places += count
    if not places:
        raise UserError(f"{page}: has no place for any of {', '.join(parts)}: <!-- NAME --> and <!-- end of NAME -->")
    return text
