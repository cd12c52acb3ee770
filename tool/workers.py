"""Worker processes (data loading, CRF) that end with the process that made them, and never before."""

import multiprocessing
import os
import signal
import sys
import threading
import time

WRITING = threading.Lock()  # held in a worker while it writes a file, so that its end leaves no temporary
INTERVAL = 0.5  # seconds between two looks at the parent


def follow_parent(*_):
    """Call first in a worker process: signals are left to the parent, and the worker ends when the parent is gone.

    Ctrl-C and a scheduler's SIGTERM reach all processes of a run. The parent finishes its step or its image first, for
    which it needs the workers; then it ends them. A parent that is killed cannot: a forked worker would wait for work
    for ever.
    """
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
