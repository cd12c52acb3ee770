"""What runs on a GPU, whether it is what the CPU computes, and how fast: `make gpu`.

Writes docs/gpu.md (--out) anew after every row, so that what was measured stays. A row that fails says so and leaves
the others alone; what the time (--minutes) does not allow is left out and said. Without a GPU: one line, exit 0.

    python -m tests.gpu.run --only same speed
"""

import argparse
import datetime
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.gpu import same, scripts, speed
from tool.cli import positive, run_script
from tool.io.files import UserError, shorten, write_text

PARTS = {  # title, header, words before the table, steps
    "same": ("The same as on the CPU", same.HEADER, same.INTRO, same.steps),
    "scripts": ("The scripts", scripts.HEADER, scripts.INTRO, scripts.steps),
    "speed": ("Time and memory", speed.HEADER, speed.INTRO, speed.steps),
    "syncs": ("What a step waits for", speed.SYNC_HEADER, speed.SYNC_INTRO, speed.sync_steps),
    "rates": ("Photographs a second", scripts.RATE_HEADER, scripts.RATE_INTRO, scripts.rate_steps),
}


@dataclass
class Setting:
    """What the parts are told. folder: a temporary one; ends: time.time() of the end; tiny: for tests, on a CPU."""

    device: torch.device
    tiny: bool
    folder: Path
    ends: float

    @property
    def width(self):
        return 1 / 16 if self.tiny else 1.0

    def left(self):
        return max(1.0, self.ends - time.time())


class Report:
    """The page: its tables grow by rows, and the file is written after each. failed: rows that are not as expected."""

    def __init__(self, path, place):
        self.path, self.lines, self.failed = path, ["# On a GPU", "", f"`make gpu` wrote this page: {place}."], 0

    def begin(self, title, header, words):
        bar = "|" + "---|" * len(header)
        self.columns = len(header)
        self.lines += ["", f"## {title}", "", words, "", f"| {' | '.join(header)} |", bar]
        print(f"\n{title}: {', '.join(header)}", flush=True)

    def row(self, *cells):
        cells = [str(cell).replace("|", "/") for cell in cells]
        self.failed += "NO" in cells
        self.lines.append(f"| {' | '.join([*cells, *['-'] * (self.columns - len(cells))])} |")
        write_text(self.path, "\n".join(self.lines) + "\n")
        print("  " + "; ".join(cells), flush=True)


def describe(device):
    """Card or processor, torch, day."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    cuda = f", CUDA {torch.version.cuda}" if device.type == "cuda" else ""
    return f"{name}, torch {torch.__version__}{cuda}, {datetime.date.today()}"


def run_part(report, setting, title, header, words, steps):
    report.begin(title, header, words)
    for name, seconds, work in steps(setting):
        if setting.left() < seconds:
            report.row(name, f"left out: {setting.left():.0f} s are left, it takes about {seconds}")
            continue
        try:
            report.row(name, *work())
        except Exception as error:  # whatever it is, the other rows are worth having
            traceback.print_exc()
            report.row(name, f"failed: {shorten(f'{type(error).__name__}: {error}', 300)}")
            report.failed += 1
        if setting.device.type == "cuda":
            torch.cuda.empty_cache()


def get_args_parser():
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.run", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(PARTS), metavar="PART", help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--minutes", type=positive, default=6.0, help="what does not fit is left out")
    parser.add_argument("--out", type=Path, default=Path("docs/gpu.md"), help="the page to write")
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    return parser


def main(args):
    if unknown := [name for name in args.only if name not in PARTS]:
        raise UserError(f"--only {unknown[0]}: there is no such part; take some of {', '.join(PARTS)}")
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("make gpu: no GPU here that torch can use, so nothing was run")
        return
    started = time.time()
    report = Report(args.out, describe(device))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        setting = Setting(device, args.tiny, Path(folder), started + 60 * args.minutes)
        for name in PARTS:
            if name in args.only:
                run_part(report, setting, *PARTS[name])
    verdict = f"{report.failed} rows failed" if report.failed else "every row as expected"
    print(f"\nmake gpu: {args.out}, {verdict}, {time.time() - started:.0f} s", flush=True)
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    run_script(main, get_args_parser())
