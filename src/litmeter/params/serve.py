"""The section ``serve`` and each experiment: one serving configuration."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from litmeter.params.types import Count, Positive, Precision, Preprocess, Seconds, Section, Transport


class ServeSettings(Section):
    """One serving configuration. The defaults are LitServe's own."""

    precision: Precision = Field(
        "full", description="float32; float16 on a GPU and bfloat16 on a CPU; quantised to int8 (CPU only)"
    )
    max_batch_size: Count = Field(1, description="requests that one batch may hold")
    batch_timeout_s: Seconds = Field(0.0, description="how long a batch waits to fill")
    workers_per_device: Count = Field(1, description="processes that hold a copy of the model")
    threads_per_worker: Count | None = Field(
        None, description="torch's threads on a CPU; absent: as many as there are cores"
    )
    transport: Transport = Field(
        "litserve", description="LitServe's queues, or a socket from the HTTP process to the workers"
    )
    preprocess: Preprocess = Field(
        "timm",
        description="timm's transform on PIL images; JPEGs decoded and resized by torchvision; the same, "
        "with large ones decoded at a reduced scale",
    )
    compiled: bool = Field(
        False, description="the model compiled for this machine (stage compile) instead of timm's modules"
    )
    keep_freed_memory: bool = Field(
        False, description="glibc keeps freed memory for reuse instead of returning it to the kernel"
    )
    max_queue: Count = Field(
        1024, description="requests in flight beyond which the direct transport refuses more"
    )
    max_queue_mib: Count = Field(
        128, description="bytes of their bodies together, beyond which the direct transport refuses more"
    )
    max_megapixels: Annotated[int, Field(ge=1, le=500)] = Field(
        50, description="pixels of an image, above which it is refused before it is decoded"
    )
    worker_timeout_s: Positive = Field(
        30.0, description="a worker that has had a batch for longer hangs: it is killed and replaced (direct)"
    )
    drain_s: Seconds = Field(
        10.0, description="how long a server that is told to stop may take to finish what it has accepted"
    )

    @model_validator(mode="after")
    def _check(self) -> ServeSettings:
        if self.precision == "int8" and not self.compiled:
            raise ValueError("precision ('int8'): allowed without compiled: full or half")
        if self.compiled and self.threads_per_worker not in (None, 1):
            raise ValueError(
                f"threads_per_worker ({self.threads_per_worker}): allowed with compiled: 1, on which it runs"
            )
        if self.compiled and self.preprocess == "timm":
            raise ValueError(
                "preprocess ('timm'): allowed with compiled: 'torchvision' or 'scaled', whose pixels it takes"
            )
        return self
