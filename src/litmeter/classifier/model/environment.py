"""How a worker starts: the modules that it imports, and whether malloc keeps freed memory."""

from __future__ import annotations

import ctypes
import os

from litmeter.classifier.model.settings import InferenceSettings

THRESHOLD_BYTES = 2**30
"""malloc takes smaller blocks from the heap, and returns no smaller part of its end to the system."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keeping_freed_memory() -> dict[str, str]:
    """The environment of a process that keeps freed memory; only glibc heeds these variables."""
    thresholds = {f"MALLOC_{name}_THRESHOLD_": str(THRESHOLD_BYTES) for name in ("TRIM", "MMAP")}
    return os.environ | thresholds


def modules_of(settings: InferenceSettings, device: str) -> list[str]:
    """The modules that a predictor imports; the forkserver loads them before it forks workers."""
    if settings.compiled:
        return ["litmeter.classifier.model.predictor", *(["openvino"] if device == "cpu" else [])]
    return ["litmeter.classifier.model.predictor", "litmeter.classifier.model.model"]


def keep_freed_memory() -> None:
    """Have this process reuse freed memory instead of returning it to the system, if its C library is glibc.

    By default glibc maps memory for each large tensor and unmaps it when the tensor is freed, so that every
    activation of every image costs page faults (mallopt(3)).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, THRESHOLD_BYTES)
        mallopt(M_MMAP_THRESHOLD, THRESHOLD_BYTES)
