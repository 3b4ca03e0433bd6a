"""Keys of servers whose workers LitServe or the direct transport starts."""

from __future__ import annotations

import os
from typing import Any, Literal

from pydantic import Field

from litmeter.settings import Count, Positive, Seconds, Section

Transport = Literal["litserve", "direct"]
THREADS = [f"{name}_NUM_THREADS" for name in ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR")]
"""Environment variables that set the number of threads of the usual numerical libraries."""
PIPELINE_KEYS = frozenset(
    {"api", "api_kwargs", "folder", "max_batch_size", "workers_per_device", "threads_per_worker"}
)
"""Keys on which the work of a LitAPI for a request depends."""


class WorkerSettings(Section):
    """Workers, and how requests reach them. The defaults are LitServe's."""

    max_batch_size: Count = Field(1, description="requests that one batch may hold")
    batch_timeout_s: Seconds = Field(0.0, description="how long a batch waits to fill")
    workers_per_device: Count = Field(1, description="processes that hold a copy of the model")
    threads_per_worker: Count | None = Field(None, description="threads on a CPU; absent: one for each core")
    transport: Transport = Field("litserve", description="LitServe's queues, or a socket to the workers")
    max_queue: Count = Field(1024, description="requests in flight; above, the direct transport refuses")
    max_queue_mib: Count = Field(128, description="MiB of bodies in flight; above, the direct one refuses")
    worker_timeout_s: Positive = Field(
        30.0, description="a worker whose batch takes longer is replaced (direct)"
    )
    drain_s: Seconds = Field(10.0, description="how long a stopping server may finish accepted requests")


class LitApiSettings(WorkerSettings):
    """Settings of a LitAPI's server, and how the LitAPI is made."""

    api: str = Field(description="module:Class, a LitAPI of your own", pattern=r"^[\w.-]+:\w+$")
    api_kwargs: dict[str, Any] = Field({}, description="arguments of its constructor")
    check_answers: bool = Field(True, description="answers must not depend on batch or worker")
    path: str = Field("/predict", description="path that requests are sent to, from / on", pattern="^/")
    num_api_servers: Count = Field(1, description="HTTP processes of LitServe's transport; direct has one")
    folder: str | None = Field(None, description="where its module is found; absent: the project's")

    def environment(self) -> dict[str, str]:
        """This process's environment with the number of threads of its libraries."""
        if self.threads_per_worker is None:
            return dict(os.environ)
        return os.environ | dict.fromkeys(THREADS, str(self.threads_per_worker))
