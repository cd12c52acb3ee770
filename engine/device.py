"""Where tensors live and how they lie in memory: device, memory format."""

import torch

from tool.io.files import UserError
from tool.memory import keep_freed_memory


def choose_device(name):
    """`auto`, `cpu`, `cuda`, `cuda:1` -> torch.device; UserError where it cannot be had.

    On the CPU this process keeps the memory that it frees from here on.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--device {name}: not available here ({reason}); try --device cpu") from None
    if device.type == "cpu":
        keep_freed_memory()
    return device


def memory_format(device, amp):
    """channels_last where convolutions are faster with it: on GPUs, and in bfloat16 on CPUs."""
    return torch.channels_last if amp or device.type == "cuda" else torch.contiguous_format
