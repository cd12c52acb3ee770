"""Worker processes: how many, how they start, what they do first, and where they share memory."""

import errno
import math
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
from pathlib import Path, PurePosixPath

from tool.memory import give_freed_memory_back

SHARED = Path("/dev/shm")  # where processes hand tensors and locks to each other on Linux
LITTLE = 2**20  # bytes: nobody finds room there
WRITING = threading.Lock()  # held in a worker while it writes a file, so that its end leaves no temporary
INTERVAL = 0.5  # seconds between two looks at the parent


def follow_parent(*_):
    """Call first in a worker process: signals are left to the parent, and the worker ends when the parent is gone.

    Ctrl-C and a scheduler's SIGTERM reach all processes of a run. The parent finishes its step or its image first, for
    which it needs the workers; then it ends them. A parent that is killed cannot: a forked worker would wait for work
    for ever. Of the memory that it frees a worker keeps less than the parent: there may be many of them.
    """
    give_freed_memory_back()
    parent = multiprocessing.parent_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _unless_parent_left
    if hasattr(signal, "sigtimedwait"):  # not on macOS and Windows; SIGTERM ends the worker there
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _unless_parent_left(kind, error, traceback):
    """A parent that a signal stopped while it took a tensor from us has said so itself; we print no traceback."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, traceback)


def _watch(parent):
    """End this process on SIGTERM from the parent (a pool or a loader that cleans up), or without a parent."""
    while os.getppid() == parent.pid and not _ended_by(parent):
        pass
    with WRITING:
        os._exit(0)


def _ended_by(parent):
    """Wait for an interval; True where `parent` sent SIGTERM meanwhile or, where that cannot be known, is gone."""
    if not hasattr(signal, "sigtimedwait"):
        parent.join(INTERVAL)
        return not parent.is_alive()
    sent = signal.sigtimedwait({signal.SIGTERM}, INTERVAL)
    return sent is not None and sent.si_pid == parent.pid


def usable_cores(root="/"):
    """Cores that a scheduler or a container lets us use: affinity and CPU quota, rounded up. root: of proc and sys."""
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
        _, controllers, group = line.split(":", 2)  # version 1 mounts a controller or some together, version 2 all
        group = PurePosixPath(group.lstrip("/"))
        folders += [
            root / "sys/fs/cgroup" / top / one for top in ("cpu", controllers) for one in (group, *group.parents)
        ]
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
        has_room = os.access(SHARED, os.W_OK) and shutil.disk_usage(SHARED).free >= LITTLE
        found = found and sys.platform == "linux" and not has_room
    else:
        found = re.search("[Bb]us error|shared memory|</torch_", f"{error} {error.__cause__}")
    advice = "docker run --shm-size=8g makes it larger, --num_workers 0 needs little of it"
    return f"{SHARED}, by which processes share memory, is full or missing: {advice}" if found else ""
