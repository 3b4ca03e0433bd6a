"""What a worker starts with: environment variables, malloc's way with freed memory, modules that it needs."""

from __future__ import annotations

import ctypes
import os

from litmeter.params import ServeSettings

THRESHOLD_BYTES = 2**30
"""Smaller blocks are not mapped one by one, and no less freed memory is given back."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
THREADS = [f"{name}_NUM_THREADS" for name in ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR")]
"""Environment variables by which the usual numerical libraries start so many threads."""


def worker_environment(settings: ServeSettings) -> dict[str, str]:
    """This process's environment, in which a LitAPI's libraries find their number of threads.

    With ``keep_freed_memory``, malloc's thresholds are raised in it. Other C libraries
    than glibc ignore them.
    """
    if settings.kind == "api" and settings.threads_per_worker is not None:
        return os.environ | dict.fromkeys(THREADS, str(settings.threads_per_worker))
    if not settings.keep_freed_memory:
        return dict(os.environ)
    thresholds = {f"MALLOC_{name}_THRESHOLD_": str(THRESHOLD_BYTES) for name in ("TRIM", "MMAP")}
    return os.environ | thresholds


def modules_of(settings: ServeSettings, device: str) -> list[str]:
    """The modules that a predictor with these settings imports; workers are forked where these are loaded."""
    if settings.compiled:
        return ["litmeter.model.predictor", *(["openvino"] if device == "cpu" else [])]
    return ["litmeter.model.predictor", "litmeter.model.model"]


def keep_freed_memory() -> None:
    """Let this process use freed memory again instead of giving it back to the system.

    By default glibc maps memory for each large tensor and unmaps it when the tensor is freed, so that
    every activation of every image costs page faults (mallopt(3)). Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, THRESHOLD_BYTES)
        mallopt(M_MMAP_THRESHOLD, THRESHOLD_BYTES)
