"""What a worker process is started with: environment variables, and modules that it will need."""

from __future__ import annotations

import os

from litmeter.params import ServeSettings
from litmeter.system.allocator import THRESHOLD_BYTES


def worker_environment(settings: ServeSettings) -> dict[str, str]:
    """This process's environment; with ``keep_freed_memory``, malloc's thresholds are raised.

    The two variables do what ``system.allocator.keep_freed_memory`` does, from the process's start on. Other
    C libraries than glibc ignore them.
    """
    if not settings.keep_freed_memory:
        return dict(os.environ)
    thresholds = {f"MALLOC_{name}_THRESHOLD_": str(THRESHOLD_BYTES) for name in ("TRIM", "MMAP")}
    return os.environ | thresholds


def modules_of(settings: ServeSettings) -> list[str]:
    """The modules that a predictor with these settings imports; their libraries take seconds.

    Processes that are forked can have them imported before.
    """
    return [
        "litmeter.inference.predictor",
        *([] if settings.compiled else ["litmeter.inference.model"]),
        *(["litmeter.inference.lean_timm"] if settings.preprocess == "timm" else []),
    ]
