"""Environment variables of a worker process."""

from __future__ import annotations

import os

from servebench.params import ServeSettings

MALLOC_THRESHOLD_BYTES = 2**30


def worker_environment(settings: ServeSettings) -> dict[str, str]:
    """This process's environment; with ``keep_freed_memory``, malloc's thresholds are raised.

    By default glibc maps memory for each large tensor and unmaps it when the tensor is freed, so that
    every activation of every image costs page faults (mallopt(3): M_TRIM_THRESHOLD,
    M_MMAP_THRESHOLD). Other C libraries ignore the two variables.
    """
    if not settings.keep_freed_memory:
        return dict(os.environ)
    thresholds = {f"MALLOC_{name}_THRESHOLD_": str(MALLOC_THRESHOLD_BYTES) for name in ("TRIM", "MMAP")}
    return os.environ | thresholds
