"""Scores to look at: tables on the console, CSV files, plots. What is shown is a result of evaluation.py."""

import csv
from pathlib import Path

from tabulate import tabulate

from tool.io.files import UserError, atomic

PLOT_SUFFIXES = (".png", ".pdf", ".svg")
COLUMNS = {"classes": "IoU", "precision": "precision", "recall": "recall", "boundary_iou_classes": "boundary IoU"}
FIGURES = {
    "miou": "mIoU, absent as 0",
    "miou_present": "mIoU, present",
    "mean_precision": "precision",
    "mean_recall": "recall",
    "foreground_precision": "foreground precision",
    "foreground_recall": "foreground recall",
    "false_positive": "false positives",
    "false_negative": "false negatives",
    "boundary_iou": "boundary IoU",
}
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#8c8c8c"  # told apart by colour-blind readers, too


def table(result):
    """A result of evaluation.py as text: class by class, or, of several experiments, side by side."""
    if "experiments" in result:
        return experiment_table(result["experiments"], result["mean"], result["std"])
    absent = set(result["absent"])
    rows = [[name, *(result[figure][name] for figure in COLUMNS if name not in absent)] for name in result["classes"]]
    return "\n".join([aligned(rows, ["class", *COLUMNS.values()]), *describe(result)])


def aligned(rows, headers):
    """Rows of a name and numbers -> text; a row without numbers is that of an absent class."""
    cells = [[name, *(f"{value:.2f}" for value in values)] for name, *values in rows]
    cells = [row if len(row) > 1 else [*row, "absent", *[""] * (len(headers) - 2)] for row in cells]
    return tabulate(cells, headers, disable_numparse=True, colalign=("left", *["right"] * (len(headers) - 1)))


def describe(result):
    """What stands below the table of one result, line by line."""
    present = len(result["classes"]) - len(result["absent"])
    lines = [
        f"mIoU {result['miou']:.2f} (absent classes count as 0, as released), {result['miou_present']:.2f} over the "
        f"{present} present classes",
        f"precision {result['mean_precision']:.2f}, recall {result['mean_recall']:.2f} (means of present classes); of "
        f"all foreground {result['foreground_precision']:.2f}, {result['foreground_recall']:.2f}",
        f"false positives {result['false_positive']:.2f}, false negatives {result['false_negative']:.2f} (mean shares "
        f"of the union); boundary IoU {result['boundary_iou']:.2f}",
    ]
    if result["oracle_threshold"]:
        lines.append(
            f"threshold {result['best_threshold']:.2f} is the best of {len(result['thresholds'])} on these very "
            "masks: an oracle; --kfold chooses on other images, --threshold scores a fixed one"
        )
    if "kfold" in result:
        folds = result["kfold"]
        chosen = " ".join(f"{threshold:.2f}" for threshold in folds["thresholds"])
        lines.append(
            f"without an oracle: mIoU {folds['miou']:.2f} ({folds['miou_present']:.2f} of present classes); each of "
            f"{folds['k']} parts at the best threshold of the others: {chosen}"
        )
    return lines


def experiment_table(results, mean, deviation):
    """A row a class and a figure, a column an experiment, mean and standard deviation -> text.

    results: {name: result}. mean, deviation: see `over_experiments`.
    """
    columns = [*results.values(), mean, deviation]
    absent = set.intersection(*(set(result["absent"]) for result in results.values()))
    rows = [[name, *(column["classes"][name] for column in columns if name not in absent)] for name in mean["classes"]]
    rows += [[text, *(column[key] for column in columns)] for key, text in FIGURES.items()]
    if "kfold_miou" in mean:
        folds = [result["kfold"]["miou"] for result in results.values()]
        rows.append(["mIoU without an oracle", *folds, mean["kfold_miou"], deviation["kfold_miou"]])
    thresholds = [result["best_threshold"] for result in results.values()]
    if None not in thresholds:
        oracle = any(result["oracle_threshold"] for result in results.values())
        rows.append(["threshold (an oracle)" if oracle else "threshold", *thresholds])
    return aligned(rows, ["", *results, "mean", "std"])


def write_csv(path, results):
    """A row an experiment and a class, then its means; percent, empty where a class is absent.

    results: {name: result}.
    """
    rows = [["experiment", "class", "iou", "precision", "recall", "boundary_iou"]]
    for experiment, result in results.items():
        for name in result["classes"]:
            values = [""] * len(COLUMNS) if name in result["absent"] else [result[figure][name] for figure in COLUMNS]
            rows.append([experiment, name, *values])
        means = [result[key] for key in ("miou_present", "mean_precision", "mean_recall", "boundary_iou")]
        rows.append([experiment, "mean of present", *means])
        rows.append([experiment, "mean, absent as 0", result["miou"], "", "", ""])
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)


# ---------------------------------------------------------------- plots


def check_plot(path):
    """UserError where a plot cannot be written under this name, or matplotlib is not there."""
    if Path(path).suffix.lower() not in PLOT_SUFFIXES:
        raise UserError(f"{path}: a plot is a {', '.join(PLOT_SUFFIXES[:-1])} or {PLOT_SUFFIXES[-1]} file")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError(f"{path}: plots need matplotlib; pip install -r requirements.txt") from None


def write_plot(path, results):
    """IoU of every class as bars, beside the curve over the thresholds where there are several.

    results: {name: result}.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    first = next(iter(results.values()))
    curve = len(first["thresholds"]) > 1
    names = [name for name in first["classes"] if not all(name in result["absent"] for result in results.values())]
    with rc_context({"text.parse_math": False}), atomic(path) as temporary:  # names may hold dollars
        ratios = [3, 2] if curve else [1]
        figure = Figure((11 if curve else 6, max(4, 0.25 * len(names) + 1.8)), layout="constrained")
        axes = figure.subplots(1, len(ratios), squeeze=False, width_ratios=ratios)[0]
        if curve:
            draw_curves(axes[0], results)
        draw_classes(axes[-1], results, names)
        for ax in axes:
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(alpha=0.3)
            ax.set_axisbelow(True)
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
        figure.suptitle(f"{first['dict_dir']} on {first['list']}", fontsize=11)
        figure.savefig(temporary, format=Path(path).suffix[1:].lower(), dpi=150)


def draw_curves(ax, results):
    """mIoU over the background threshold, a line an experiment, its best marked."""
    for name, result in results.items():
        text = f"mIoU {result['miou']:.2f} at {result['best_threshold']:.2f}, {name}"
        (line,) = ax.plot(result["thresholds"], result["miou_by_threshold"], label=text)
        ax.plot(result["best_threshold"], result["miou"], "o", color=line.get_color())
    ax.set(xlabel="background threshold", ylabel="mIoU (%), absent classes as 0")
    ax.set_title("thresholds; the best is chosen on the masks it is scored with", fontsize=10)


def draw_classes(ax, results, names):
    """IoU of these classes: bars of the mean over experiments, with a point each where there are several."""
    several = len(results) > 1
    values = [[result["classes"][name] for result in results.values()] for name in names]
    means = [sum(row) / len(row) for row in values]
    ax.barh(names, means, color=BLUE, height=0.7, label="IoU, mean of experiments" if several else "IoU")
    if several:
        for column in range(len(results)):
            ax.plot([row[column] for row in values], names, ".", color=ORANGE, label=None if column else "each of them")
    else:
        (result,) = results.values()
        boundary = [result["boundary_iou_classes"][name] for name in names]
        ax.plot(boundary, names, "|", color=ORANGE, markersize=9, markeredgewidth=2, label="boundary IoU")
    mean = sum(result["miou_present"] for result in results.values()) / len(results)
    ax.axvline(mean, color=GREY, linestyle="--", linewidth=1)
    ax.invert_yaxis()
    ax.set(xlim=(0, 100), xlabel="IoU (%)")
    ax.tick_params(axis="y", labelsize=8)
    ax.set_title(f"present classes; dashed: their mean, {mean:.2f}", fontsize=10)
