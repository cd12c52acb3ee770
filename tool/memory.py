"""What malloc does with freed memory: keep it for the next step, or give it back. For glibc; elsewhere nothing is done.

A step of a network asks for the blocks of the step before. By default glibc maps each block of 32 MiB or more anew, and
hands back the end of its heap where that is free, and the kernel clears every page of what it gives out again. Keeping
it costs memory where blocks of many sizes leave gaps (docs/speed.md has both figures).
"""

import ctypes
import functools
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
NEVER = -1
OLDER = 2**25  # the largest M_MMAP_THRESHOLD that glibc takes before 2.35, and the largest that it chooses by itself


@functools.cache
def mallopt():
    """glibc's function of that name; None where the C library is another one."""
    return getattr(ctypes.CDLL(None), "mallopt", None) if platform.libc_ver()[0] == "glibc" else None


def keep_freed_memory():
    """For a process that computes on the CPU: what it frees stays with it, to be used again."""
    if set_option := mallopt():
        set_option(M_MMAP_THRESHOLD, 2**30) or set_option(M_MMAP_THRESHOLD, OLDER)
        set_option(M_TRIM_THRESHOLD, NEVER)


def give_freed_memory_back():
    """For a worker process, of which there may be many, where it was forked from one that keeps: as glibc does it."""
    if set_option := mallopt():
        set_option(M_MMAP_THRESHOLD, OLDER)
        set_option(M_TRIM_THRESHOLD, 2 * OLDER)
