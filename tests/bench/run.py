"""Time and memory of our formulations against the published ones: `make bench`.

Reads: nothing. Writes: a table to standard output, one row as soon as it is measured. Rows come from the modules
tests/bench/rows_*.py; each has ROWS = {name: function(repetitions) -> {"name", "ours", "published", "ratio",
"difference", "note", "rate"}, or a list of these}, times in ms, rates in images a second, None where there is nothing
to compare with or no image.

    python -m tests.bench.run --only random_walk
"""

import argparse
import importlib
import pkgutil

import torch

import tests.bench
from tool.cli import positive_int, run_script
from tool.io.files import UserError


def get_args_parser():
    options = {"description": __doc__.splitlines()[0], "allow_abbrev": False}
    parser = argparse.ArgumentParser("python -m tests.bench.run", **options)
    parser.add_argument(
        "--only", type=str, nargs="+", default=None, metavar="NAME", help="rows to measure (default: all)"
    )
    parser.add_argument(
        "--repetitions", type=positive_int, default=5, help="runs of each form, at least 5; the median counts"
    )
    return parser


def all_rows():
    """{name: function} of every tests/bench/rows_*.py, in the order of file names."""
    rows = {}
    for module in pkgutil.iter_modules(tests.bench.__path__):
        if module.name.startswith("rows_"):
            rows.update(importlib.import_module(f"tests.bench.{module.name}").ROWS)
    return rows


def cell(value, form):
    return "-" if value is None else format(value, form)


def main(args):
    rows = all_rows()
    unknown = [name for name in args.only or () if name not in rows]
    if unknown:
        raise UserError(f"--only {unknown[0]}: there is no such row; take some of {', '.join(rows)}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, median times")
    print(
        f"{'row':<20} {'ours ms':>10} {'published ms':>13} {'ratio':>7} {'images/s':>9} {'largest diff.':>14}  note",
        flush=True,
    )
    for name in args.only or rows:
        measured = rows[name](args.repetitions)
        for row in measured if isinstance(measured, list) else [measured]:
            print(
                f"{row['name']:<20} {cell(row['ours'], '.1f'):>10} {cell(row['published'], '.1f'):>13} "
                f"{cell(row['ratio'], '.2f'):>7} {cell(row['rate'], '.2f'):>9} "
                f"{cell(row['difference'], '.1e'):>14}  {row['note']}",
                flush=True,
            )


if __name__ == "__main__":
    run_script(main, get_args_parser())
