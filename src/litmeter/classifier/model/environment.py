"""What a worker starts with: environment variables, malloc's way with freed memory, modules that it needs."""

from __future__ import annotations

import ctypes
import os

from litmeter.classifier.model.settings import InferenceSettings

THRESHOLD_BYTES = 2**30
"""Smaller blocks are not mapped one by one, and no less freed memory is given back."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keeping_freed_memory() -> dict[str, str]:
    """This process's environment, in which glibc's thresholds are raised. Other C libraries ignore them."""
    thresholds = {f"MALLOC_{name}_THRESHOLD_": str(THRESHOLD_BYTES) for name in ("TRIM", "MMAP")}
    return os.environ | thresholds


def modules_of(settings: InferenceSettings, device: str) -> list[str]:
    """The modules that a predictor with these settings imports; workers are forked where these are loaded."""
    if settings.compiled:
        return ["litmeter.classifier.model.predictor", *(["openvino"] if device == "cpu" else [])]
    return ["litmeter.classifier.model.predictor", "litmeter.classifier.model.model"]


def keep_freed_memory() -> None:
    """Let this process use freed memory again instead of giving it back to the system.

    By default glibc maps memory for each large tensor and unmaps it when the tensor is freed, so that
    every activation of every image costs page faults (mallopt(3)). Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, THRESHOLD_BYTES)
        mallopt(M_MMAP_THRESHOLD, THRESHOLD_BYTES)
