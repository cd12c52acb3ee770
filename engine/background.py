"""Work beside the network: CRF in processes, writing in a thread; at most a few jobs wait, so memory does not grow."""

import sys
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from engine.check import timed
from tool.io.files import UserError
from tool.workers import follow_parent, process_context

KILLED = (
    "a CRF process was killed, probably for lack of memory; run it again with fewer --crf_workers, it continues "
    "where it was"
)


class Background:
    """Runs jobs in threads or in worker processes; an error in a job is raised by the next call.

    Make processes before anything runs on torch: a fork does not copy torch's threads. Leave it
    as a context: after an error the jobs that wait are dropped, otherwise all are done.
    """

    def __init__(self, threads=0, processes=0):
        """How many of either; a run that submits nothing needs none."""
        self.workers = threads + processes
        self.pending = set()
        self.images, self.seconds = 0, 0.0  # of the jobs that are done; seconds: sum over the workers
        self.pool = ThreadPoolExecutor(threads) if threads else None
        if processes:
            self.pool = ProcessPoolExecutor(processes, process_context(), initializer=follow_parent)
            self.pool.submit(timed, time.sleep, 0).result()  # starts them now

    def submit(self, job, *arguments):
        """Have job(*arguments) done; waits while two a worker wait already. UserError where a worker was killed."""
        try:
            self.pending.add(self.pool.submit(timed, job, *arguments))
            self._drain(2 * self.workers)
        except BrokenProcessPool:
            raise self._killed() from None

    def _killed(self):
        """The error to raise where a worker was killed."""
        if sys.version_info < (3, 11, 5):  # the pool waits for its writing thread as long as there is who could read
            self.pool._call_queue._reader.close()
        return UserError(KILLED)

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
            raise self._killed() from None
        finally:
            if self.pool:
                self.pool.shutdown(wait=True, cancel_futures=True)
