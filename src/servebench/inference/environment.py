"""What has to be set before a worker's process starts."""

from __future__ import annotations

import os

from servebench.params import ServeSettings

KEPT_BYTES = 2**30


def worker_environment(settings: ServeSettings) -> dict[str, str]:
    """Our own environment, with what ``settings`` ask of the allocator.

    With glibc's defaults a large tensor is mapped anew each time and unmapped when it is freed: every
    activation of every image is paid for in page faults (mallopt(3): M_TRIM_THRESHOLD,
    M_MMAP_THRESHOLD). Other C libraries ignore the two.
    """
    if not settings.keep_freed_memory:
        return dict(os.environ)
    kept = {f"MALLOC_{what}_THRESHOLD_": str(KEPT_BYTES) for what in ("TRIM", "MMAP")}
    return os.environ | kept
