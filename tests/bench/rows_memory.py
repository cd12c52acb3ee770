"""Row of `make bench`: a training step where malloc keeps what is freed, and where it does not (tool/memory.py)."""

import statistics
import time

from engine.distributed import choose_device
from tests.bench.measure import own_process, row
from tests.bench.rows_networks import train_forms

try:
    import resource
except ImportError:  # not on Windows, which has no glibc either
    resource = None

WIDTH, BATCH, SIDE = 1 / 16, 8, 320  # the paper's batch and crop
WARM_UP = 3  # steps that make room


def page_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt if resource else 0


def measure_steps(step, count):
    """(milliseconds, page faults) of a step, medians of `count`."""
    figures = []
    for _ in range(WARM_UP + count):
        faults, start = page_faults(), time.perf_counter()
        step()
        figures.append((1000 * (time.perf_counter() - start), page_faults() - faults))
    return [statistics.median(x) for x in zip(*figures[WARM_UP:])]


def print_steps(kept):
    """What a process of the row runs. kept: "kept", or malloc as it is."""
    if kept == "kept":
        choose_device("cpu")
    print(*measure_steps(train_forms(WIDTH, BATCH, SIDE)[1], 3))


def kept_memory(repetitions):
    target = "tests.bench.rows_memory:print_steps"
    runs = [[own_process(target, kept) for kept in ("kept", "default")] for _ in range(max(3, repetitions // 2))]
    (ours, few), (theirs, many) = ([statistics.median(x) for x in zip(*form)] for form in zip(*runs))
    note = f"triplet step, width 1/16, batch {BATCH}, {SIDE} x {SIDE}, float32; published: malloc as it is"
    return row("kept_memory", ours, theirs, None, f"{note}; {few:.0f} against {many:.0f} page faults a step")


ROWS = {"kept_memory": kept_memory}
