"""The section ``tune``: which configurations are searched, and for what."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from litmeter.params.types import Count, Positive, Precision, Preprocess, Seconds, Section, Seed, Transport

KNOBS = (
    "precision",
    "compiled",
    "preprocess",
    "transport",
    "workers_per_device",
    "threads_per_worker",
    "max_batch_size",
    "batch_timeout_s",
    "keep_freed_memory",
)
"""The keys of ``serve:`` that are searched; all others stay as ``serve:`` has them."""

AtLeastOne = Field(min_length=1, strict=False)
StrictCount = Annotated[int, Field(ge=1, strict=True)]


class TuneSettings(Section):
    """The values of each knob, what is sought, and what the winner has to keep to."""

    precision: Annotated[tuple[Precision, ...], AtLeastOne]
    compiled: Annotated[tuple[bool, ...], AtLeastOne]
    preprocess: Annotated[tuple[Preprocess, ...], AtLeastOne]
    transport: Annotated[tuple[Transport, ...], AtLeastOne]
    workers_per_device: Annotated[tuple[StrictCount, ...], AtLeastOne]
    threads_per_worker: Annotated[tuple[StrictCount, ...], AtLeastOne]
    max_batch_size: Annotated[tuple[StrictCount, ...], AtLeastOne]
    batch_timeout_s: Annotated[tuple[Seconds, ...], AtLeastOne]
    keep_freed_memory: Annotated[tuple[bool, ...], AtLeastOne]
    goal: Literal["throughput", "capacity"] = Field(
        description="rate of a closed loop of ``users``, or the capacity under ``objective``"
    )
    users: Count = Field(description="requests in flight at once while configurations race")
    min_agreement: Annotated[float, Field(ge=0, le=1)] = Field(
        description="share of the photos that must have the label of full precision"
    )
    max_memory_mib: Positive | None = Field(description="of the server's processes together")
    max_p95_ms: Positive | None = Field(description="latency in the closed loop")
    max_s: Positive = Field(description="budget in seconds; about a third is for costs and starts")
    seed: Seed = Field(description="seed of the order in which configurations take turns")
