"""Cores that a process may use, and how processes start."""

import os

import pytest

from tool.workers import process_context, usable_cores


def write_files(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/cpu"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 16),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "max 100000\n"}, 16),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "300000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "150000 100000\n"}, 2),  # 1.5 cores
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "9900000 100000\n"}, 16),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "broken"}, 16),
        # a job's group inside a user's: the smaller quota counts, and a group of its own without one
        (
            {
                "proc/self/cgroup": "0::/user/job\n",
                f"{V2}/user/cpu.max": "400000 100000",
                f"{V2}/user/job/cpu.max": "max 100000",
            },
            4,
        ),
        ({"proc/self/cgroup": "0::/a\n", f"{V2}/a/cpu.max": "200000 100000", f"{V2}/b/cpu.max": "100000 100000"}, 2),
        # version 1; in a container the path is the one outside
        (
            {
                "proc/self/cgroup": "3:cpuset:/\n2:cpu,cpuacct:/docker/1f\n1:memory:/\n0::/\n",
                f"{V1}/cpu.cfs_quota_us": "250000\n",
                f"{V1}/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            {"proc/self/cgroup": "2:cpu:/\n", f"{V1}/cpu.cfs_quota_us": "-1\n", f"{V1}/cpu.cfs_period_us": "100000\n"},
            16,
        ),
        (
            {
                "proc/self/cgroup": "2:cpu,cpuacct:/slurm/job\n",
                f"{V1},cpuacct/slurm/job/cpu.cfs_quota_us": "500000\n",
                f"{V1},cpuacct/slurm/job/cpu.cfs_period_us": "100000\n",
            },
            5,
        ),
    ],
)
def test_cores_are_those_of_affinity_and_control_groups(files, cores, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    write_files(tmp_path, files)
    assert usable_cores(tmp_path) == cores


def test_without_affinity_the_machines_cores_count(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cores(tmp_path) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path) == 1


def test_processes_start_by_spawn_where_there_is_no_fork(monkeypatch):
    assert process_context().get_start_method() == "fork"
    monkeypatch.setattr("multiprocessing.get_all_start_methods", lambda: ["spawn"])
    assert process_context().get_start_method() == "spawn"
