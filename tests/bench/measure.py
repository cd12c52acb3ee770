"""How `make bench` measures: median time of interleaved repetitions, and peak memory in a process of its own."""

import importlib
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def interleaved(ours, published, repetitions=5):
    """Run both in turn after one run of each to warm up -> medians in ms and the warm-up's two results.

    In turn, so that what else the machine does meets both alike. Returns (ours ms, published ms, result, result).
    """
    forms = (ours, published)
    results = [form() for form in forms]
    times = ([], [])
    for _ in range(max(5, repetitions)):
        for form, spent in zip(forms, times):
            start = time.perf_counter()
            form()
            spent.append(1000 * (time.perf_counter() - start))
    return *(statistics.median(spent) for spent in times), *results


def compare(name, ours, published, difference, note="", repetitions=5):
    """One row of the table; `difference(result, result)` gives the largest absolute difference."""
    a, b, one, other = interleaved(ours, published, repetitions)
    return {
        "name": name, "ours": a, "published": b, "ratio": b / a, "difference": difference(one, other), "note": note,
    }


def peak_memory(target, *args):
    """MiB that a step adds at its peak to what its process held before (Linux, else None).

    target: "module:function"; called with `args` (strings) in a new process it prepares the inputs and returns the
    step, a callable without arguments.
    """
    if not Path("/proc/self/status").exists():
        return None
    code = "import sys; from tests.bench.measure import print_peak; print_peak(*sys.argv[1:])"
    command = [sys.executable, "-c", code, target, *args]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(result.stdout.split()[-1])


def print_peak(target, *args):
    """What the process of `peak_memory` runs. The kernel's own count: it sees every allocator."""
    module, function = target.split(":")
    step = getattr(importlib.import_module(module), function)(*args)
    Path("/proc/self/clear_refs").write_text("5")  # lowers the high-water mark to what is held now
    before = status("VmHWM")
    step()
    print((status("VmHWM") - before) / 1024)


def status(field):
    """A size of this process in KiB, from /proc."""
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text()).group(1))


def mebibytes(value):
    return "?" if value is None else f"{value:.0f} MiB"
