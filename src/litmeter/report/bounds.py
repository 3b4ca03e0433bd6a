"""Upper bounds of the rate, from the hardware's peak down to the served rate, in images/s = requests/s.

Each bound limits the next. If a bound lies above the one before it by more than their intervals, one of
the two is measured wrongly.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from litmeter.report.results import Result
from litmeter.stats.comparison import Ratio

DATASHEET = "datasheet"
ROOFLINE = "roofline"
MODEL = "model"
PIPELINE = "pipeline"
TRANSPORT = "pipeline + transport"
SERVED = "served"
BOUND_NAMES = (DATASHEET, ROOFLINE, MODEL, PIPELINE, TRANSPORT, SERVED)


@dataclass(frozen=True)
class Bound:
    """One bound of the rate, images/s, with its 95% interval where one is known.

    Attributes:
        share: of the bound before it, None for the first.
        share_low, share_high: the share's 95% interval, where both bounds were measured in the same rounds:
            narrower than what the intervals of the two rates allow.
    """

    name: str
    rate_rps: float
    low_rps: float | None
    high_rps: float | None
    share: float | None
    share_low: float | None = None
    share_high: float | None = None

    @property
    def lowest_rps(self) -> float:
        """The interval's lower end; a rate without an interval counts as exact."""
        return self.rate_rps if self.low_rps is None else self.low_rps

    @property
    def highest_rps(self) -> float:
        """The interval's upper end; a rate without an interval counts as exact."""
        return self.rate_rps if self.high_rps is None else self.high_rps


def bounds_of(result: Result, ceilings: Mapping[str, Any]) -> list[Bound]:
    """The bounds of one configuration, from the highest; bounds of unknown rate are left out.

    1. datasheet: the datasheet's peak over FLOPs per image, where the device is in the table;
    2. roofline: measured peak and memory bandwidth, at the best batch size;
    3. model in-process, at its best batch size;
    4. pipeline in-process (decode, preprocess, model), at its best batch size;
    5. pipeline and transport on one CPU budget, see ``with_transport``;
    6. served: the best level.

    Args:
        ceilings: metrics/ceilings.json.
    """
    precision = result.serve.precision
    model, pipeline, best = result.model, result.pipeline, result.best
    in_process = (pipeline.pipeline_rps, pipeline.pipeline_low_rps, pipeline.pipeline_high_rps)
    known: list[tuple[str, tuple[float | None, float | None, float | None]]] = [
        (DATASHEET, (ceilings[f"datasheet_{precision}_rps"], None, None)),
        (ROOFLINE, (ceilings[f"roofline_{precision}_rps"], None, None)),
        (MODEL, (model.model_rps, model.model_low_rps, model.model_high_rps)),
        (PIPELINE, in_process),
        (TRANSPORT, with_transport(result)),
        (SERVED, (best.throughput_rps, best.low_rps, best.high_rps) if best else (None, None, None)),
    ]
    bounds: list[Bound] = []
    for name, (rate, low, high) in known:
        if rate is not None:
            share = rate / bounds[-1].rate_rps if bounds else None
            bounds.append(Bound(name, rate, low, high, share))
    return [_paired(bound, result.pipeline_share) if bound.name == PIPELINE else bound for bound in bounds]


def _paired(bound: Bound, share: Ratio | None) -> Bound:
    """The bound with its share from rates of the same rounds, where there are enough."""
    if share is None:
        return bound
    return replace(bound, share=share.ratio, share_low=share.low, share_high=share.high)


def budget_ms(result: Result) -> float | None:
    """CPU time per request of pipeline, server and load generator together, None where unknown."""
    server, client = result.run["null_cpu_ms"], result.run["null_client_cpu_ms"]
    if server is None or client is None:
        return None
    total: float = result.pipeline.pipeline_cpu_ms + server + client
    return total


def with_transport(result: Result) -> tuple[float | None, float | None, float | None]:
    """Rate, low and high of the pipeline with server and load generator on the same cores.

    It is the least of three rates: ``cores`` over the CPU time per request (``budget_ms``), the null
    server's rate, and the pipeline's own, as transport costs nothing where the pipeline leaves cores
    idle. CPU time per image is as uncertain as the rate it was measured with, so the first rate's
    interval is the pipeline's, in proportion.
    """
    pipeline, run = result.pipeline, result.run
    per_request_ms = budget_ms(result)
    if per_request_ms is None:
        return None, None, None
    rate = 1000 * run["cores"] / per_request_ms
    scale = rate / pipeline.pipeline_rps
    bounds = [
        (pipeline.pipeline_rps, pipeline.pipeline_low_rps, pipeline.pipeline_high_rps),
        (rate, pipeline.pipeline_low_rps * scale, pipeline.pipeline_high_rps * scale),
        (run["null_rps"], run["null_low_rps"], run["null_high_rps"]),
    ]
    return min(bounds, key=lambda bound: bound[0])


def measuring_errors(name: str, bounds: Sequence[Bound]) -> list[str]:
    """One line for each bound that lies above the one before it by more than their intervals."""
    return [
        f"{name}: {lower.name} ({_interval(lower)}) lies above {upper.name} ({_interval(upper)}): "
        "an error of measuring"
        for upper, lower in itertools.pairwise(bounds)
        if lower.lowest_rps > upper.highest_rps
    ]


def _interval(bound: Bound) -> str:
    if bound.low_rps is None or bound.high_rps is None:
        return f"{bound.rate_rps:.1f} images/s"
    return f"{bound.low_rps:.1f} to {bound.high_rps:.1f} images/s"
