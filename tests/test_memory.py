"""What malloc does with freed memory: a process that computes on the CPU keeps it, workers and other devices do not."""

import platform
from pathlib import Path

import pytest
import torch

from engine import device
from engine.device import choose_device
from engine.workers import Background
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_a_process_on_the_cpu_keeps_memory_and_its_workers_do_not():
    memory.give_freed_memory_back()
    _, before = measure_steps(step_of_a_layer(), 3)
    choose_device("cpu")
    _, kept = measure_steps(step_of_a_layer(), 5)
    assert before > 20_000 and kept < before / 5
    with Background(1) as workers:
        assert workers.pool.submit(kept_of_a_block).result() < 0.2
    assert kept_of_a_block() > 0.8
    memory.give_freed_memory_back()


@pytest.mark.parametrize("name", ["cpu", "auto", "cpu:0", "meta"])
def test_every_stage_on_the_cpu_keeps_memory(name, monkeypatch):
    """They all choose their device here."""
    calls = []
    monkeypatch.setattr(device, "keep_freed_memory", lambda: calls.append(name))
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
