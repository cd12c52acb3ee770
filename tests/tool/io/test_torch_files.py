"""Torch files of plain values."""

import torch

from tool.io.torch_files import read_torch, save_torch


def test_save_torch_and_read_torch_of_nested_values(tmp_path):
    value = {
        "step": 12,
        "rate": 0.1,
        "name": "N",
        "done": False,
        "none": None,
        "sizes": (3, [4, 5]),
        "rng": torch.get_rng_state(),
        "optimizer": {"state": {0: {"momentum_buffer": torch.randn(3)}}},
    }
    save_torch(value, tmp_path / "new" / "resume.pth")
    got = read_torch(tmp_path / "new" / "resume.pth")
    assert torch.equal(got.pop("rng"), value.pop("rng"))
    buffers = [v.pop("optimizer")["state"][0]["momentum_buffer"] for v in (got, value)]
    assert torch.equal(*buffers) and got == value
