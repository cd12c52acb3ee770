"""Work in threads."""

import pytest
import torch

from tool.threads import spread


def test_an_error_in_a_thread_is_raised():
    def work(item):
        if item == 2:
            raise RuntimeError("third")

    torch.set_num_threads(2)
    with pytest.raises(RuntimeError, match="third"):
        spread(work, [0, 1, 2, 3])
    assert torch.get_num_threads() == 2
