"""CPU threads for short operations.

Torch splits every operation over its threads and waits for all of them. With operations of a fraction of a
millisecond that gains little on an idle machine, and on a busy one each wait costs a turn of the scheduler: on two
shared cores a random walk of 30 ms was seen to take 800 ms, a pair step of 0.4 s to take 14 s.
"""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import torch


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
