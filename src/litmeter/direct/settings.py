"""Keys of servers whose workers LitServe or the direct transport starts."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator

from litmeter.settings import Count, Positive, Seconds, Section

Transport = Literal["litserve", "direct"]
AUTO = "auto"
"""As many workers as have a core for each of their threads; a number once it is known what they run on."""
THREADS = [f"{name}_NUM_THREADS" for name in ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR")]
"""Environment variables that set the number of threads of the usual numerical libraries."""
PIPELINE_KEYS = frozenset(
    {"api", "api_kwargs", "folder", "max_batch_size", "workers_per_device", "threads_per_worker"}
)
"""Keys on which the work of a LitAPI for a request depends."""


def _number_or_auto(value: Any) -> Any:
    if value == AUTO or (type(value) is int and value >= 1):
        return value
    raise ValueError(f"got {value!r}; allowed: {AUTO}, or a number from 1")


Workers = Annotated[int | Literal["auto"], PlainValidator(_number_or_auto)]


class WorkerSettings(Section):
    """Workers, and how requests reach them. The defaults are LitServe's."""

    max_batch_size: Count = Field(1, description="requests that one batch may hold")
    batch_timeout_s: Seconds = Field(0.0, description="how long a batch waits to fill")
    workers_per_device: Workers = Field(1, description="processes that hold a copy of the model; or auto")
    threads_per_worker: Count | None = Field(None, description="threads on a CPU; absent: one for each core")
    transport: Transport = Field("litserve", description="LitServe's queues, or a socket to the workers")
    max_queue: Count = Field(1024, description="requests in flight; above, the direct transport refuses")
    max_queue_mib: Count = Field(128, description="MiB of bodies in flight; above, the direct one refuses")
    worker_timeout_s: Positive = Field(
        30.0, description="a worker whose batch takes longer is replaced (direct)"
    )
    drain_s: Seconds = Field(10.0, description="how long a stopping server may finish accepted requests")

    @property
    def workers(self) -> int:
        """The number of workers."""
        assert isinstance(self.workers_per_device, int)
        return self.workers_per_device


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
