"""Dense CRF in worker processes, so that it runs beside the network; results are written by the workers."""

import multiprocessing
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from tool.crf import crf_with_alphas
from tool.files import UserError, write_scores
from tool.workers import WRITING, follow_parent

KILLED = ("a CRF process was killed, probably for lack of memory; run it again with fewer --crf_workers, it continues "
          "where it was")


def crf_job(image, cams, paths, iterations):
    """Refine one image and write one file an alpha. paths: {alpha: path}."""
    for alpha, scores in crf_with_alphas(image, cams, list(paths), iterations).items():
        with WRITING:
            write_scores(paths[alpha], scores)


def _ready():
    return True


class CrfPool:
    """At most 2 * workers images wait, so memory does not grow; an error in a worker is raised by the next call.

    Make it before anything runs on torch: the workers are forked, and a fork does not copy torch's threads.
    """

    def __init__(self, workers):
        """workers: number of processes; 0 makes none, for runs that submit nothing."""
        self.limit = 2 * workers
        self.pending = set()
        self.pool = None
        if not workers:
            return
        self.pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), initializer=follow_parent)
        self.pool.submit(_ready).result()

    def submit(self, *job):
        """Hand over the arguments of crf_job; UserError where a worker was killed."""
        try:
            self.pending.add(self.pool.submit(crf_job, *job))
            self._drain(self.limit)
        except BrokenProcessPool:
            raise UserError(KILLED) from None

    def _drain(self, limit):
        while len(self.pending) > limit:
            done, self.pending = wait(self.pending, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()

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
