"""What malloc does with freed memory: a process that computes on the CPU keeps it, workers and other devices do not."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from engine import distributed
from engine.background import Background
from engine.distributed import choose_device
from tests.bench.rows_memory import measure_steps
from tool import memory


def step_of_a_layer():
    """A training step with blocks of 40 MiB, 10,240 pages each."""
    layer, image = torch.nn.Conv2d(1, 10, 1), torch.ones(1, 1, 1024, 1024)
    return lambda: layer(image).relu().sum().backward()


def kept_of_a_block():
    """The part of a block of 400 MiB that stays with this process when it is freed."""
    before = resident()
    block = torch.ones(100 * 2**20)
    whole = resident() - before
    del block
    return (resident() - before) / whole


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])


def measure():
    """Page faults of a step as malloc is, and with kept memory; the parts of a block that a worker and we keep."""
    torch.set_num_threads(1)
    memory.give_freed_memory_back()
    _, before = measure_steps(step_of_a_layer(), 3)
    choose_device("cpu")
    _, kept = measure_steps(step_of_a_layer(), 5)
    with Background(processes=1) as workers:
        print(before, kept, workers.pool.submit(kept_of_a_block).result(), kept_of_a_block())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_a_process_on_the_cpu_keeps_memory_and_its_workers_do_not():
    """In a process of its own: what others allocated before is kept, too.

    In another when in doubt: where the kernel happens to put the heap, one block of three finds no gap that fits it.
    """
    code = "import test_memory; test_memory.measure()"
    paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests/tool'}", "OMP_NUM_THREADS": "1"}
    for _ in range(5):
        out = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | paths
        ).stdout
        before, kept, of_a_worker, of_ours = map(float, out.split())
        if kept < before / 5:
            break
    assert before > 20_000 and kept < before / 5
    assert of_a_worker < 0.2 and of_ours > 0.8


@pytest.mark.parametrize("name", ["cpu", "auto", "cpu:0", "meta"])
def test_every_stage_on_the_cpu_keeps_memory(name, monkeypatch):
    """They all choose their device here."""
    calls = []
    monkeypatch.setattr(distributed, "keep_freed_memory", lambda: calls.append(name))
    assert (choose_device(name).type == "cpu") == bool(calls)


def test_options_as_glibc_has_them(monkeypatch):
    """Before 2.35 it refuses more than 32 MiB; other C libraries are left alone."""
    calls = []

    def older(option, value):
        calls.append((option, value))
        return int(option != -3 or value <= 2**25)

    monkeypatch.setattr(memory, "mallopt", lambda: older)
    memory.keep_freed_memory()
    assert calls == [(-3, 2**30), (-3, 2**25), (-1, -1)]
    memory.give_freed_memory_back()
    assert calls[3:] == [(-3, 2**25), (-1, 2**26)]
    monkeypatch.undo()
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert memory.mallopt.__wrapped__() is None
