"""How `make bench` measures: median time of interleaved repetitions, and peak memory in a process of its own."""

import importlib
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def interleaved(forms, repetitions=5, warm_up=True):
    """Run all forms in turn, `repetitions` times -> (median time of each in ms, a result of each).

    In turn, so that what else the machine does meets all alike. warm_up: one run of each first, not counted; without
    it the results are those of the first run.
    """
    results = [form() for form in forms] if warm_up else [None] * len(forms)
    times = [[] for _ in forms]
    for _ in range(max(5, repetitions)):
        for k, form in enumerate(forms):
            start = time.perf_counter()
            result = form()
            times[k].append(1000 * (time.perf_counter() - start))
            if results[k] is None:
                results[k] = result
    return [statistics.median(spent) for spent in times], results


def row(name, ours, published, difference, note, images=None):
    """A row of the table; ours and published in ms (or another unit, then the note says which).

    images: how many a run of a form is about, where it is a stage's work.
    """
    return {
        "name": name,
        "ours": ours,
        "published": published,
        "ratio": published / ours,
        "difference": difference,
        "note": note,
        "rate": images and 1000 * images / ours,
    }


def compare(name, ours, published, difference, note, repetitions, warm_up=True, images=None):
    """Measure two forms; `difference(our result, theirs)` gives the largest absolute difference."""
    (a, b), results = interleaved((ours, published), repetitions, warm_up)
    return row(name, a, b, difference(*results), note, images)


def peak_memory(target, *args):
    """MiB that a step adds at its peak to what its process held before (Linux, else None).

    target: "module:function"; called with `args` (strings) in a new process it prepares the inputs and returns the
    step, a callable without arguments.
    """
    if not Path("/proc/self/status").exists():
        return None
    return own_process("tests.bench.measure:print_peak", target, *args)[0]


def own_process(target, *args):
    """The numbers in the last line that "module:function" prints, called with `args` (strings) in a new process."""
    code = "import sys; from tests.bench.measure import call; call(*sys.argv[1:])"
    command = [sys.executable, "-c", code, target, *args]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [float(number) for number in result.stdout.splitlines()[-1].split()]


def call(target, *args):
    """What "module:function" returns, called with `args`."""
    module, function = target.split(":")
    return getattr(importlib.import_module(module), function)(*args)


def print_peak(target, *args):
    """What the process of `peak_memory` runs. The kernel's own count: it sees every allocator."""
    step = call(target, *args)
    Path("/proc/self/clear_refs").write_text("5")  # lowers the high-water mark to what is held now
    before = status("VmHWM")
    step()
    print((status("VmHWM") - before) / 1024)


def status(field):
    """A size of this process in KiB, from /proc."""
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text()).group(1))


def mebibytes(value):
    return "?" if value is None else f"{value:.0f} MiB"
