"""Dense CRF in worker processes, so that it runs beside the network; results are written by the workers."""

import multiprocessing
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait

from tool.crf import crf_with_alphas
from tool.files import write_scores


def crf_job(image, cams, paths, iterations):
    """Refine one image and write one file an alpha. paths: {alpha: path}."""
    for alpha, scores in crf_with_alphas(image, cams, list(paths), iterations).items():
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
        self.pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork"))
        self.pool.submit(_ready).result()

    def submit(self, *job):
        self.pending.add(self.pool.submit(crf_job, *job))
        self._drain(self.limit)

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
        finally:
            if self.pool:
                self.pool.shutdown(wait=True, cancel_futures=True)
