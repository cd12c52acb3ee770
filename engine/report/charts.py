"""Curves as SVG for the page: text stays text, and colours are variables of its style sheet, so it may be dark."""

import io
import re

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from engine.report.found import is_number
from tool.tables import FIGURES, draw_curves

# Stand-ins that matplotlib writes, for what the style sheet says.
COLOURS = {"#010203": "var(--muted)", "#010204": "var(--line)"} | {
    f"#0102{16 + k:02x}": f"var(--series-{k})" for k in range(1, 7)
}
MUTED, LINE, *SERIES = COLOURS
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names may hold dollars
    "font.size": 9.5,
    "lines.linewidth": 1.6,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.prop_cycle": f"cycler('color', {SERIES})",
    "legend.frameon": False,
}
STYLE |= dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), LINE)
STYLE |= dict.fromkeys(("axes.labelcolor", "text.color", "xtick.labelcolor", "ytick.labelcolor"), MUTED)
STYLE |= {f"axes.spines.{side}": False for side in ("top", "right", "left")}
NO_LOSS = ("epoch", "steps", "global_step", "planned_steps", "lr", "phase", "seconds", "threshold")


def svg(name, draw):
    """The picture that draw(axes) makes, as an inline SVG. name: unlike those of the page's other charts."""
    with rc_context(STYLE | {"svg.hashsalt": name}):
        figure = Figure((4.8, 2.7), layout="constrained")
        draw(figure.subplots())
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # numbered alike in every picture
    text = text.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)  # what it shows is said beside it
    return Markup(re.sub("#0102[0-9a-f]{2}", lambda found: COLOURS.get(found[0], found[0]), text))


def training_charts(stage):
    """[{"title", "svg", "text"}] of a training's epochs: losses, learning rate, and mIoU where it was measured."""
    rows = stage.epochs
    keys = dict.fromkeys(key for row in rows for key, value in row.items() if is_number(value))
    scores = [key for key in keys if key in FIGURES]
    losses = [key for key in keys if key not in (*NO_LOSS, *scores)]
    groups = {"Loss": losses, "Learning rate": [key for key in keys if key == "lr"], "mIoU while training (%)": scores}
    return [epoch_chart(f"{stage.name} {title}", title, rows, keys) for title, keys in groups.items() if keys]


def epoch_chart(name, title, rows, keys):
    """One line a key over the epochs."""
    every = {key: [(row["epoch"], row[key]) for row in rows if is_number(row.get(key))] for key in keys}
    lines = {FIGURES.get(key, key): points for key, points in every.items() if any(value for _, value in points)}

    def draw(ax):
        for key, points in lines.items():
            ax.plot(*zip(*points), label=key, marker="o" if len(points) < 30 else None, markersize=2.5)
        ax.set(xlabel="epoch")
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        if len(lines) > 1:
            ax.legend(ncols=2)

    ends = [f"{key} from {points[0][1]:.4g} to {points[-1][1]:.4g}" for key, points in lines.items()]
    return {"title": title, "svg": svg(name, draw), "text": f"Over {len(rows)} epochs: {', '.join(ends) or 'all 0'}."}


def threshold_chart(result):
    """The mIoU of class activation maps over the background threshold. result: what `tool.results.score` gives."""

    def draw(ax):
        draw_curves(ax, {"class activation maps": [result]})
        ax.set(title="", ylabel="mIoU (%)")

    text = (
        f"Best at {result['best_threshold']:.2f}, with mIoU {result['miou']:.1f} (absent classes as 0); "
        f"{result['miou_by_threshold'][0]:.1f} at {result['thresholds'][0]:.2f}, "
        f"{result['miou_by_threshold'][-1]:.1f} at {result['thresholds'][-1]:.2f}. The best is chosen on the masks "
        "that it is scored with: an oracle."
    )
    return {"title": "Background threshold of the class activation maps", "svg": svg("threshold", draw), "text": text}
