"""Threads and worker processes: CPU threads for short operations, and what a worker does before anything else.

Torch splits every operation over its threads and waits for all of them. With operations of a fraction of a
millisecond that gains little on an idle machine, and on a busy one each wait costs a turn of the scheduler: on two
shared cores a random walk of 30 ms was seen to take 800 ms, a pair step of 0.4 s to take 14 s.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import torch

from tool.memory import give_freed_memory_back


@contextlib.contextmanager
def one_thread():
    """Let torch use one CPU thread inside, and as many as before afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def spread(work, items):
    """work(item) for every item, on as many Python threads as torch has, each with one of torch's; waits for all.

    `work` is called in inference mode (a thread inherits no mode from its maker) and returns nothing.
    """

    @torch.inference_mode()
    def one(item):
        work(item)

    with ThreadPoolExecutor(max(1, min(torch.get_num_threads(), len(items)))) as pool, one_thread():
        for _ in pool.map(one, items):
            pass  # raises what `work` raised


# ---------------------------------------------------------------- worker processes

WRITING = threading.Lock()  # held in a worker while it writes a file, so that its end leaves no temporary


INTERVAL = 0.5  # seconds between two looks at the parent


def follow_parent(*_):
    """Call first in a worker process: signals are left to the parent, and the worker ends when the parent is gone.

    Ctrl-C and a scheduler's SIGTERM reach all processes of a run. The parent finishes its step or its image first, for
    which it needs the workers; then it ends them. A parent that is killed cannot: a forked worker would wait for work
    for ever. Of the memory that it frees a worker keeps less than the parent: there may be many of them.
    """
    give_freed_memory_back()
    parent = multiprocessing.parent_process().pid
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _unless_parent_left
    if hasattr(signal, "sigtimedwait"):  # not on macOS; SIGTERM ends the worker there
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _unless_parent_left(kind, error, traceback):
    """A parent that a signal stopped while it took a tensor from us has said so itself; we print no traceback."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, traceback)


def _watch(parent):
    """End this process on SIGTERM from the parent (a pool or a loader that cleans up), or without a parent."""
    while os.getppid() == parent and not _terminated_by(parent):
        pass
    with WRITING:
        os._exit(0)


def _terminated_by(parent):
    """Wait for an interval; True where `parent` sent SIGTERM meanwhile."""
    if not hasattr(signal, "sigtimedwait"):
        time.sleep(INTERVAL)
        return False
    sent = signal.sigtimedwait({signal.SIGTERM}, INTERVAL)
    return sent is not None and sent.si_pid == parent
