"""Processes beside the main one: how many cores there are for them, how they start, and where they share memory."""

import errno
import math
import multiprocessing
import os
import re
import shutil
import sys
from pathlib import Path, PurePosixPath

SHARED = Path("/dev/shm")  # where processes hand tensors and locks to each other on Linux
LITTLE = 2**20  # bytes: nobody finds room there


def usable_cores(root="/"):
    """Cores that this process may use, at least 1: of its affinity and its control groups' CPU quota, rounded up.

    A scheduler or a container may give it fewer than the machine has. root: the folder with proc and sys.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min([cores, *map(cpu_quota, control_groups(Path(root)))])))


def control_groups(root):
    """Folders of the control groups of this process and of those above them; not all of them need to exist.

    In a container the names in /proc may be those outside, while its own group is the top of what is mounted.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        tops = {"cpu", controllers} if controllers else {""}  # version 1 mounts a controller, version 2 all
        group = PurePosixPath(group.lstrip("/"))
        folders += [root / "sys/fs/cgroup" / top / one for top in tops for one in (group, *group.parents)]
    return folders


def cpu_quota(folder):
    """The CPU quota of one control group, in cores; infinity where it has none."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = ((folder / f"cpu.cfs_{k}_us").read_text(encoding="utf-8") for k in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
        return math.inf


def process_context():
    """multiprocessing's way to start workers: fork, which takes milliseconds, and spawn where there is no fork."""
    return multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")


def shared_memory_lacks(error):
    """One line for an error of processes that found no room in shared memory; "" where `error` is another one.

    Torch's loader says it in a RuntimeError, or dies of a bus error. Locks of multiprocessing lie there too: an OSError
    that names no file.
    """
    if isinstance(error, OSError):
        found = error.filename is None and error.errno in (errno.ENOSPC, errno.ENOENT, errno.ENOSYS, errno.EACCES)
        found = found and sys.platform == "linux" and not has_room(SHARED)
    else:
        found = re.search("[Bb]us error|shared memory|</torch_", f"{error} {error.__cause__}")
    advice = "docker run --shm-size=8g makes it larger, --num_workers 0 needs little of it"
    return f"{SHARED}, by which processes share memory, is full or missing: {advice}" if found else ""


def has_room(folder):
    return os.access(folder, os.W_OK) and shutil.disk_usage(folder).free >= LITTLE
