"""Scores to look at: tables on the console, CSV files, plots. What is shown is a result of evaluation.py."""

import csv
from pathlib import Path

from tabulate import tabulate

from tool.io.files import UserError, atomic, write_text
from tool.metrics import deviation

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
WITHOUT_ORACLE = "mIoU without an oracle"
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#000000")  # of Okabe and Ito
ORANGE = "#d55e00"
ONE_COLUMN, TWO_COLUMNS = 3.4, 7  # inches, of a paper's page
# letters as TrueType, which publishers want; names of classes may hold dollars
PAPER = {"pdf.fonttype": 42, "ps.fonttype": 42, "font.size": 8, "xtick.labelsize": 7, "ytick.labelsize": 7}
PAPER |= {"legend.fontsize": 7, "text.parse_math": False}


def table(result):
    """A result of evaluation.py as text: class by class, or, of several experiments or methods, side by side."""
    return "\n".join([aligned(*cells_of(result), "simple"), *describe(result)])


def few_table(curve, form="simple"):
    """choose.py's curve, [{"masks", "draws", "cam", "crf"}] with `choice_of_few` of each, as text."""
    headers, lines = ["masks", "CAM", "threshold", "refined", "power and kernel"], []
    for one in curve:
        lines.append([str(one["masks"])])
        for stage in (one["cam"], one["crf"]):
            chosen = f"{stage['setting']} ({stage['share']} of {one['draws']})"
            lines[-1] += [f"{stage['miou']:.1f} ± {stage['std']:.1f}", chosen]
    return aligned(lines, headers, form)


def write_tex(path, result):
    """The table of a result for LaTeX, with the package booktabs; what stands below it on the console as comments."""
    notes = [f"% {line}\n" for line in describe(result)]
    body = aligned(*cells_of(result), "latex_booktabs").replace("±", r"$\pm$")
    write_text(path, "".join(["% \\usepackage{booktabs}; percent\n", *notes, body, "\n"]))


def aligned(rows, headers, form):
    """Rows of a name and texts -> text; a row without texts is that of an absent class."""
    rows = [row if len(row) > 1 else [*row, "absent", *[""] * (len(headers) - 2)] for row in rows]
    align = ("left", *["right"] * (len(headers) - 1))
    return tabulate(rows, headers, form, disable_numparse=True, colalign=align)


def cells_of(result):
    """(rows of a name and texts, headers) of the table of a result."""
    if "experiments" in result:
        return compared_cells(result["experiments"], result)
    absent = set(result["absent"])
    rows = [
        [name, *texts(result[figure][name] for figure in COLUMNS if name not in absent)] for name in result["classes"]
    ]
    return rows, ["class", *COLUMNS.values()]


def texts(values):
    return [f"{value:.2f}" for value in values]


def absent_in_all(results):
    return set.intersection(*(set(result["absent"]) for result in results.values()))


def compared_cells(results, means):
    """A row a class and a figure; a column a method, or an experiment, and then their mean and standard deviation.

    results: {experiment: result}. means: see `over_methods`.
    """
    if "methods" in means:
        methods = means["methods"]
        columns, headers = [(method["mean"], method["std"]) for method in methods.values()], ["", *methods]
        last = [["experiments", *(str(len(method["names"])) for method in methods.values())]]
    else:
        figures = [one | ({"kfold_miou": one["kfold"]["miou"]} if "kfold" in one else {}) for one in results.values()]
        columns = [(column, None) for column in (*figures, means["mean"], means["std"])]
        headers, thresholds = ["", *results, "mean", "std"], [one["best_threshold"] for one in figures]
        oracle = any(one["oracle_threshold"] for one in figures)
        name = "threshold (an oracle)" if oracle else "threshold"
        last = [] if None in thresholds else [[name, *texts(thresholds), "", ""]]

    def row(name, value):
        pairs = [(value(mean), std and value(std)) for mean, std in columns]
        return [name, *(f"{mean:.2f}" if std is None else f"{mean:.2f} ± {std:.2f}" for mean, std in pairs)]

    absent, first = absent_in_all(results), columns[0][0]
    rows = [[name] if name in absent else row(name, lambda m, n=name: m["classes"][n]) for name in first["classes"]]
    figures = FIGURES | ({"kfold_miou": WITHOUT_ORACLE} if "kfold_miou" in first else {})
    return [*rows, *(row(text, lambda m, key=key: m[key]) for key, text in figures.items()), *last], headers


def describe(result):
    """What stands below the table of a result, line by line."""
    return range_ends(result["experiments"]) if "experiments" in result else describe_one(result)


def range_ends(results):
    """A line where the best of several thresholds is the first or the last, and not 0 or 1. results: {name: result}."""
    ends = []
    for name, result in results.items():
        tried, best = result["thresholds"], result["best_threshold"]
        if len(tried) > 1 and best in (tried[0], tried[-1]) and 0 < best < 1:
            ends.append(f"{best:.2f}{f' of {name}' if name else ''}")
    text = "best threshold at an end of the range that was tried; --thresholds MIN MAX tries others"
    return [f"{', '.join(ends)}: {text}"] if ends else []


def describe_one(result):
    """The figures of one result."""
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
    lines += range_ends({"": result})
    if "kfold" in result:
        folds = result["kfold"]
        chosen = " ".join(f"{threshold:.2f}" for threshold in folds["thresholds"])
        lines.append(
            f"without an oracle: mIoU {folds['miou']:.2f} ({folds['miou_present']:.2f} of present classes); each of "
            f"{folds['k']} parts at the best threshold of the others: {chosen}"
        )
    return lines


def write_csv(path, results, methods=None):
    """A row an experiment and a class, then its means; percent, empty where a class is absent.

    results: {name: result}. Of several experiments mean and standard deviation follow, of each of `methods` {name: its
    experiments} where they are given.
    """
    lines = [["experiment", "class", "iou", "precision", "recall", "boundary_iou"]]
    for experiment, result in results.items():
        absent = set(result["absent"])
        for name, *values in csv_rows(result):
            lines.append([experiment, name, *([""] * len(COLUMNS) if name in absent else values)])
    groups = {f"{method}: ": names for method, names in (methods or {}).items()}
    for prefix, names in (groups or ({"": list(results)} if len(results) > 1 else {})).items():
        group = {name: results[name] for name in names}
        absent = absent_in_all(group)
        for kind, of in (("mean", lambda values: sum(values) / len(values)), ("std", deviation)):
            for rows in zip(*map(csv_rows, group.values())):
                empty = rows[0][0] in absent
                cells = ["" if empty or "" in column else of(column) for column in zip(*(row[1:] for row in rows))]
                lines.append([prefix + kind, rows[0][0], *cells])
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(lines)


def csv_rows(result):
    """Rows of a name and four values, of the classes and the means; "" where a mean has no such value."""
    for name in result["classes"]:
        yield [name, *(result[figure][name] for figure in COLUMNS)]
    means = [result[key] for key in ("miou_present", "mean_precision", "mean_recall", "boundary_iou")]
    yield ["mean of present", *means]
    yield ["mean, absent as 0", result["miou"], "", "", ""]


# ---------------------------------------------------------------- plots


def check_plot(path):
    """UserError where a plot cannot be written under this name, or matplotlib is not there."""
    if Path(path).suffix.lower() not in PLOT_SUFFIXES:
        raise UserError(f"{path}: a plot is a {', '.join(PLOT_SUFFIXES[:-1])} or {PLOT_SUFFIXES[-1]} file")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError(f"{path}: plots need matplotlib; pip install -r requirements.txt") from None


def check_outputs(paths, plot=None):
    """UserError where files cannot be written under these names. plot: that of a plot, or None."""
    for path in map(Path, paths):
        place = next(parent for parent in path.absolute().parents if parent.exists())
        if path.is_dir() or not place.is_dir():
            raise UserError(f"{path}: {'a folder' if path.is_dir() else f'{place} is no folder'}; choose another name")
    if plot:
        check_plot(plot)


def write_plot(path, results, methods=None):
    """IoU of every class as bars, beside the curve over the thresholds where there are several; for a paper's column.

    results: {name: result}; methods: {name: its experiments}, which are drawn as one.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    first = next(iter(results.values()))
    curve = len(first["thresholds"]) > 1
    names = [name for name in first["classes"] if not all(name in result["absent"] for result in results.values())]
    groups = {method: [results[name] for name in of] for method, of in (methods or {}).items()}
    bars = groups or {"mean of experiments" if len(results) > 1 else "IoU": list(results.values())}
    with rc_context(PAPER), atomic(path) as temporary:
        height = max(2.4, len(names) * (0.1 + 0.06 * len(bars)) + 1)
        figure = Figure((TWO_COLUMNS if curve else ONE_COLUMN, height), layout="constrained")
        axes = figure.subplots(1, 2 if curve else 1, squeeze=False, width_ratios=[3, 2] if curve else [1])[0]
        if curve:
            draw_curves(axes[0], groups or {name: [result] for name, result in results.items()})
        draw_classes(axes[-1], bars, names, with_mean=not curve)
        for ax in axes:
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(alpha=0.3)
            ax.set_axisbelow(True)
        figure.legend(loc="outside lower center", ncols=3 if curve else 2, frameon=False)
        figure.savefig(temporary, format=Path(path).suffix[1:].lower(), dpi=300)


def draw_curves(ax, groups):
    """mIoU over the background threshold, a line a group of results: their mean, its best marked, their deviation."""
    for k, (name, results) in enumerate(groups.items()):
        tried, rows = results[0]["thresholds"], [result["miou_by_threshold"] for result in results]
        mean, colour = [sum(column) / len(column) for column in zip(*rows)], COLOURS[k % len(COLOURS)]
        miou, best = (sum(r[key] for r in results) / len(results) for key in ("miou", "best_threshold"))
        spread = deviation([result["miou"] for result in results])
        text = f"mIoU {miou:.2f}" + (f" ± {spread:.2f}, {name}" if spread is not None else f" at {best:.2f}, {name}")
        ax.plot(tried, mean, color=colour, label=text)
        if len(results) > 1:
            widths = [deviation(column) for column in zip(*rows)]
            low, high = ([m + sign * w for m, w in zip(mean, widths)] for sign in (-1, 1))
            ax.fill_between(tried, low, high, color=colour, alpha=0.2, linewidth=0)
        else:
            ax.plot(best, miou, "o", color=colour, markersize=4)
    absent = any(result["absent"] for results in groups.values() for result in results)
    ax.set(xlabel="background threshold", ylabel="mIoU (%)\nabsent classes as 0" if absent else "mIoU (%)")


def draw_classes(ax, groups, names, with_mean):
    """IoU of classes: bars of the mean over each group, a point each where there are several; with_mean: lines too."""
    height = 0.75 / len(groups)
    for k, (group, results) in enumerate(groups.items()):
        colour = COLOURS[k % len(COLOURS)]
        rows = [[result["classes"][name] for result in results] for name in names]
        places = [n + (k - (len(groups) - 1) / 2) * height for n in range(len(names))]
        ax.barh(places, [sum(row) / len(row) for row in rows], color=colour, height=height, label=group)
        if len(results) > 1:
            for column in zip(*rows):
                ax.plot(column, places, ".", color="black", markersize=2.5)
        if with_mean:
            mean = sum(result["miou_present"] for result in results) / len(results)
            ax.axvline(mean, color=colour, linestyle="--", linewidth=1, label=f"mIoU {mean:.2f}")
    if len(groups) == len(results) == 1:
        boundary = [results[0]["boundary_iou_classes"][name] for name in names]
        ax.plot(boundary, range(len(names)), "|", color=ORANGE, markersize=6, markeredgewidth=1.5, label="boundary IoU")
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set(xlim=(0, 100), xlabel="IoU (%)")
