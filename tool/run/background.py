"""Work beside the network: CRF in processes, writing in a thread; at most a few jobs wait, so memory does not grow."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from tool.io.files import UserError
from tool.run.check import timed
from tool.workers import process_context

KILLED = (
    "a CRF process was killed, probably for lack of memory; run it again with fewer --crf_workers, it continues "
    "where it was"
)


class Background:
    """Runs jobs in worker processes, or in one thread; an error in a job is raised by the next call.

    Make processes before anything runs on torch: a fork does not copy torch's threads. Leave it
    as a context: after an error the jobs that wait are dropped, otherwise all are done.
    """

    def __init__(self, processes=None):
        """processes: how many; None for one thread, 0 for a run that submits nothing."""
        self.workers = 1 if processes is None else processes
        self.pending = set()
        self.images, self.seconds = 0, 0.0  # of the jobs that are done; seconds: sum over the workers
        self.pool = None
        if processes is None:
            self.pool = ThreadPoolExecutor(1)
        elif processes:
            self.pool = ProcessPoolExecutor(processes, process_context(), initializer=follow_parent)
            self.pool.submit(timed, time.sleep, 0).result()  # starts them now

    def submit(self, job, *arguments):
        """Have job(*arguments) done; waits while two a worker wait already. UserError where a worker was killed."""
        try:
            self.pending.add(self.pool.submit(timed, job, *arguments))
            self._drain(2 * self.workers)
        except BrokenProcessPool:
            raise UserError(KILLED) from None

    def _drain(self, limit):
        while len(self.pending) > limit:
            done, self.pending = wait(self.pending, return_when=FIRST_COMPLETED)
            for future in done:
                _, seconds = future.result()
                self.seconds += seconds
                self.images += 1

    def __enter__(self):
        return self

    def __exit__(self, kind, *exc):
        try:
            if kind is None:
                self._drain(0)
        except BrokenProcessPool:
            raise UserError(KILLED) from None
        finally:
            if self.pool:
                self.pool.shutdown(wait=True, cancel_futures=True)


WRITING = threading.Lock()  # held in a worker while it writes a file, so that its end leaves no temporary


INTERVAL = 0.5  # seconds between two looks at the parent


def follow_parent(*_):
    """Call first in a worker process: signals are left to the parent, and the worker ends when the parent is gone.

    Ctrl-C and a scheduler's SIGTERM reach all processes of a run. The parent finishes its step or its image first, for
    which it needs the workers; then it ends them. A parent that is killed cannot: a forked worker would wait for work
    for ever.
    """
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
