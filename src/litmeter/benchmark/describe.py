"""Description of a configuration in one line."""

from __future__ import annotations

from litmeter.inference.device import dtype_name
from litmeter.params import ServeSettings
from litmeter.system.tables import pluralise


def describe(serve: ServeSettings, device: str) -> str:
    """The settings of ``serve`` on ``device`` (cpu or cuda) in words; LitServe's defaults are left out."""
    workers = pluralise(serve.workers_per_device, "worker")
    if serve.threads_per_worker:
        workers += f" of {pluralise(serve.threads_per_worker, 'thread')}"
    parts = [
        dtype_name(serve.precision, device),
        f"max_batch_size {serve.max_batch_size}",
        f"batch_timeout {serve.batch_timeout_s:g} s",
        workers,
        "direct transport" if serve.transport == "direct" else "",
        "compiled" if serve.compiled else "",
        f"{serve.preprocess} preprocessing" if serve.preprocess != "timm" else "",
        "freed memory kept" if serve.keep_freed_memory else "",
    ]
    return ", ".join(filter(None, parts))
