"""The way down from the hardware's peak to the served rate, all rungs in images/s = requests/s.

Each rung bounds the next. A rung that lies above the one before it by more than their intervals
cannot be true: one of the two is measured wrongly.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from servebench.report.collect import Number, Result

DATASHEET = "datasheet"
ROOFLINE = "roofline"
MODEL = "model"
PIPELINE = "pipeline"
TRANSPORT = "pipeline + transport"
SERVED = "served"
RUNGS = (DATASHEET, ROOFLINE, MODEL, PIPELINE, TRANSPORT, SERVED)


@dataclass(frozen=True)
class Rung:
    """One bound of the rate, images/s, with its 95% interval where one is known.

    Attributes:
        share: of the rung above, None for the first.
    """

    name: str
    rate_rps: float
    low_rps: Number
    high_rps: Number
    share: Number

    @property
    def lowest_rps(self) -> float:
        """The interval's lower end; a rate without an interval counts as exact."""
        return self.rate_rps if self.low_rps is None else self.low_rps

    @property
    def highest_rps(self) -> float:
        """The interval's upper end; a rate without an interval counts as exact."""
        return self.rate_rps if self.high_rps is None else self.high_rps


def ladder(result: Result, ceilings: Mapping[str, Any]) -> list[Rung]:
    """The rungs of one configuration, from the top; one whose rate is unknown is left out.

    1. datasheet: the maker's peak over FLOPs per image, where the device is in the table;
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
    known: list[tuple[str, tuple[Number, Number, Number]]] = [
        (DATASHEET, (ceilings[f"datasheet_{precision}_rps"], None, None)),
        (ROOFLINE, (ceilings[f"roofline_{precision}_rps"], None, None)),
        (MODEL, (model.model_rps, model.model_low_rps, model.model_high_rps)),
        (PIPELINE, in_process),
        (TRANSPORT, with_transport(result)),
        (SERVED, (best.throughput_rps, best.low_rps, best.high_rps) if best else (None, None, None)),
    ]
    rungs: list[Rung] = []
    for name, (rate, low, high) in known:
        if rate is not None:
            share = rate / rungs[-1].rate_rps if rungs else None
            rungs.append(Rung(name, rate, low, high, share))
    return rungs


def budget_ms(result: Result) -> Number:
    """CPU time per request of pipeline, server and load generator together, None where unknown."""
    server, client = result.meta["null_cpu_ms"], result.meta["null_client_cpu_ms"]
    if server is None or client is None:
        return None
    total: float = result.pipeline.pipeline_cpu_ms + server + client
    return total


def with_transport(result: Result) -> tuple[Number, Number, Number]:
    """Rate, low and high of the pipeline behind a server and with its client on the same cores.

    ``cores`` over the CPU time per request, at most what the server passes on for a model that does
    nothing, and at most the pipeline's own rate: where that leaves cores idle, transport runs on
    them and takes nothing. CPU time per image is as uncertain as the rate it was measured with, so
    the budget's interval is the pipeline's, in proportion.
    """
    pipeline, meta = result.pipeline, result.meta
    per_request_ms = budget_ms(result)
    if per_request_ms is None:
        return None, None, None
    rate = 1000 * meta["cores"] / per_request_ms
    scale = rate / pipeline.pipeline_rps
    bounds = [
        (pipeline.pipeline_rps, pipeline.pipeline_low_rps, pipeline.pipeline_high_rps),
        (rate, pipeline.pipeline_low_rps * scale, pipeline.pipeline_high_rps * scale),
        (meta["null_rps"], meta["null_low_rps"], meta["null_high_rps"]),
    ]
    return min(bounds, key=lambda bound: bound[0])


def measuring_errors(name: str, rungs: Sequence[Rung]) -> list[str]:
    """One line for each rung that lies above the one before it by more than their intervals."""
    return [
        f"{name}: {lower.name} ({_span(lower)}) lies above {upper.name} ({_span(upper)}): "
        "an error of measuring"
        for upper, lower in itertools.pairwise(rungs)
        if lower.lowest_rps > upper.highest_rps
    ]


def _span(rung: Rung) -> str:
    if rung.low_rps is None or rung.high_rps is None:
        return f"{rung.rate_rps:.1f} images/s"
    return f"{rung.low_rps:.1f} to {rung.high_rps:.1f} images/s"
