"""What malloc does with freed memory."""

from __future__ import annotations

import ctypes

THRESHOLD_BYTES = 2**30
"""Smaller blocks are not mapped one by one, and no less freed memory is given back."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Let this process use freed memory again instead of giving it back to the system.

    By default glibc maps memory for each large tensor and unmaps it when the tensor is freed, so that
    every activation of every image costs page faults (mallopt(3)). Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, THRESHOLD_BYTES)
        mallopt(M_MMAP_THRESHOLD, THRESHOLD_BYTES)
