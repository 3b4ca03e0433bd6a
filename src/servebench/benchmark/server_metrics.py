"""The server's own account of a window: two scrapes of its ``/metrics``, subtracted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

TRANSPORT = "transport"
"""What the stages leave of a request's whole time: HTTP, JSON, and the ways between processes."""


@dataclass(frozen=True)
class Scrape:
    """One reading of ``/metrics``, cumulative since the server's start.

    Attributes:
        stages: seconds and requests by stage.
        whole: seconds and requests from arrival to the end of the answer.
        batches: batches no larger than a bucket's bound, by that bound.
        batched: requests and batches.
        roles: what each process does, by process id.
    """

    stages: Mapping[str, tuple[float, float]]
    whole: tuple[float, float]
    batches: Mapping[str, float]
    batched: tuple[float, float]
    roles: Mapping[int, str]


@dataclass(frozen=True)
class ServerTimes:
    """Where the time of a window's requests went.

    Attributes:
        stage_ms: mean per request, in the order in which a request goes through them; without
            transport where too few requests ended to tell.
        batches: number of batches by the largest size of their bucket ("+Inf" for the last).
        batch_size: mean, None where there was no batch.
    """

    stage_ms: Mapping[str, float]
    batches: Mapping[str, int]
    batch_size: float | None


def read_scrape(text: str) -> Scrape:
    """Read Prometheus' text format."""
    sums: dict[str, float] = defaultdict(float)
    counts: dict[str, float] = defaultdict(float)
    batches: dict[str, float] = {}
    roles: dict[int, str] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels
            if sample.name == "servebench_process" and sample.value:
                roles[int(labels["pid"])] = labels["role"]
            elif sample.name == "servebench_batch_size_bucket":
                batches[labels["le"]] = sample.value
            elif family.name.startswith("servebench_") and sample.name.endswith(("_sum", "_count")):
                kind = labels.get("stage", family.name)
                (sums if sample.name.endswith("_sum") else counts)[kind] += sample.value
    stages = {kind: (sums[kind], counts[kind]) for kind in sums if not kind.startswith("servebench_")}
    whole, batched = "servebench_request_seconds", "servebench_batch_size"
    return Scrape(
        stages=stages,
        whole=(sums[whole], counts[whole]),
        batches=batches,
        batched=(sums[batched], counts[batched]),
        roles=roles,
    )


def between(before: Scrape, after: Scrape) -> ServerTimes | None:
    """What happened between two scrapes, None where no request ended.

    A mean is the growth of the sum over the growth of the count; the parts of a request that lies
    across an edge of the window fall on either side of it.
    """
    whole_ms = _mean_ms(before.whole, after.whole)
    if whole_ms is None:
        return None
    means = {s: _mean_ms(before.stages.get(s, (0.0, 0.0)), now) for s, now in after.stages.items()}
    stage_ms = {stage: mean for stage, mean in means.items() if mean is not None}
    grown = {bound: after.batches[bound] - before.batches.get(bound, 0.0) for bound in after.batches}
    batches, below = {}, 0.0
    for bound, upto in sorted(grown.items(), key=lambda pair: float(pair[0])):
        batches[bound.removesuffix(".0")] = round(upto - below)
        below = upto
    rest_ms = whole_ms - sum(stage_ms.values())
    requests, count = (now - then for then, now in zip(before.batched, after.batched, strict=True))
    return ServerTimes(
        stage_ms=stage_ms | ({TRANSPORT: rest_ms} if rest_ms >= 0 else {}),
        batches=batches,
        batch_size=requests / count if count else None,
    )


def _mean_ms(before: tuple[float, float], after: tuple[float, float]) -> float | None:
    seconds, requests = after[0] - before[0], after[1] - before[1]
    return 1000 * seconds / requests if requests > 0 else None
