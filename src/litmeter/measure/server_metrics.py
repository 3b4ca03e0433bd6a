"""Stage times and batch sizes of a window: the difference of two scrapes of the server's ``/metrics``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

TRANSPORT = "transport"
"""The rest of a request's time outside the stages: HTTP, JSON, and communication between processes."""


@dataclass(frozen=True)
class Scrape:
    """One reading of ``/metrics``, cumulative since the server's start.

    Attributes:
        stages, whole: sum of seconds and number of requests, by stage and from arrival to answer.
        batches: cumulative histogram of batch sizes, by the upper bound of the bucket.
        batched: number of requests in batches, and number of batches.
        roles: role of each process, by process id.
    """

    stages: Mapping[str, tuple[float, float]]
    whole: tuple[float, float]
    batches: Mapping[str, float]
    batched: tuple[float, float]
    roles: Mapping[int, str]


@dataclass(frozen=True)
class ServerTimes:
    """Stage times and batch sizes of a window.

    Attributes:
        stage_ms: mean per request; without transport where the stages' means exceed the whole, as with few
            requests they may.
        batches: number of batches by the upper bound of their bucket ("+Inf" for the last).
        batch_size: mean, None where there was no batch.
    """

    stage_ms: Mapping[str, float]
    batches: Mapping[str, int]
    batch_size: float | None


def read_scrape(text: str) -> Scrape:
    """Parse ``/metrics``, in Prometheus' text format."""
    sums: dict[str, float] = defaultdict(float)
    counts: dict[str, float] = defaultdict(float)
    batches: dict[str, float] = {}
    roles: dict[int, str] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels
            if sample.name == "litmeter_process" and sample.value:
                roles[int(labels["pid"])] = labels["role"]
            elif sample.name == "litmeter_batch_size_bucket":
                batches[labels["le"]] = sample.value
            elif family.name.startswith("litmeter_") and sample.name.endswith(("_sum", "_count")):
                name = labels.get("stage", family.name)
                (sums if sample.name.endswith("_sum") else counts)[name] += sample.value
    both = {name: (sums[name], counts[name]) for name in sums}
    whole = both.pop("litmeter_request_seconds", (0.0, 0.0))
    batched = both.pop("litmeter_batch_size", (0.0, 0.0))
    stages = {name: totals for name, totals in both.items() if not name.startswith("litmeter_")}
    return Scrape(stages, whole, batches, batched, roles)


def between(before: Scrape, after: Scrape) -> ServerTimes | None:
    """Stage times and batch sizes between two scrapes, None where no request ended.

    A mean is the growth of a sum over the growth of its count. Of a request that straddles an edge of
    the window, each stage counts where it ended.
    """
    whole_ms = _mean_ms(before.whole, after.whole)
    if whole_ms is None:
        return None
    stage_ms = {
        stage: mean_ms
        for stage, totals in after.stages.items()
        if (mean_ms := _mean_ms(before.stages.get(stage, (0.0, 0.0)), totals)) is not None
    }
    batches, smaller = {}, 0.0
    for bound in sorted(after.batches, key=float):
        count = after.batches[bound] - before.batches.get(bound, 0.0)
        batches[bound.removesuffix(".0")] = round(count - smaller)
        smaller = count
    transport_ms = whole_ms - sum(stage_ms.values())
    requests, batch_count = (new - old for old, new in zip(before.batched, after.batched, strict=True))
    return ServerTimes(
        stage_ms=stage_ms | ({TRANSPORT: transport_ms} if transport_ms >= 0 else {}),
        batches=batches,
        batch_size=requests / batch_count if batch_count else None,
    )


def _mean_ms(before: tuple[float, float], after: tuple[float, float]) -> float | None:
    seconds, requests = after[0] - before[0], after[1] - before[1]
    return 1000 * seconds / requests if requests > 0 else None
