"""Upper bounds of the rate, from the hardware's peak down to the served rate, in images/s = requests/s.

Each bound limits the next; its share of the one before it is what is left of the rate. A share above 1 by
more than its interval is an error of measuring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from litmeter.report.results import Result, mean
from litmeter.stats.comparison import Ratio, ratio

DATASHEET = "datasheet"
ROOFLINE = "roofline"
MODEL = "model"
PIPELINE = "pipeline"
TRANSPORT = "pipeline + transport"
SERVED = "served"
BOUND_NAMES = (DATASHEET, ROOFLINE, MODEL, PIPELINE, TRANSPORT, SERVED)


@dataclass(frozen=True)
class Bound:
    """One bound of the rate.

    Attributes:
        upper, upper_rps: name and rate of the bound before it; None for the first.
        share: of the bound before it, with a 95% interval where one is known.
    """

    name: str
    rate_rps: float
    upper: str | None = None
    upper_rps: float | None = None
    share: Ratio | None = None

    @property
    def is_loss(self) -> bool:
        """Whether it lies below the bound before it by more than the interval of their ratio."""
        return self.share is not None and self.share.high is not None and self.share.high < 1

    @property
    def is_error(self) -> bool:
        """Whether it lies above the bound before it by more than the interval of their ratio."""
        return self.share is not None and self.share.low is not None and self.share.low > 1

    def ties_with(self, other: Bound) -> bool:
        """Whether the intervals of two losses' shares overlap, so that neither is known to be larger."""
        own, others = self.share, other.share
        if own is None or others is None or None in (own.low, own.high, others.low, others.high):
            return True
        return bool(own.low <= others.high and others.low <= own.high)  # type: ignore[operator]


def bounds_of(result: Result, ceilings: Mapping[str, Any]) -> list[Bound]:
    """The bounds of one configuration, from the highest; bounds of unknown rate are left out.

    1. datasheet: the datasheet's peak over FLOPs per image, where the device is in the table;
    2. roofline: measured peak and memory bandwidth, at the best batch size;
    3. model in-process; 4. pipeline in-process: decode, preprocess and model, at the same batch size;
    5. pipeline and transport on the same cores: the pipeline's rate times ``transport_share``;
    6. served.

    The last four are of the comparison, their ratios within its rounds.

    Args:
        ceilings: metrics/ceilings.json.
    """
    precision, row = result.serve.precision, result.compared
    left = transport_share(result)
    rates = {
        DATASHEET: ceilings.get(f"datasheet_{precision}_rps"),
        ROOFLINE: ceilings.get(f"roofline_{precision}_rps"),
        MODEL: row.model_rps,
        PIPELINE: row.pipeline_rps,
        TRANSPORT: row.pipeline_rps * left if row.pipeline_rps and left else None,
        SERVED: row.rate_rps,
    }
    bounds: list[Bound] = []
    for name, rate_rps in rates.items():
        if not rate_rps:
            continue
        if not bounds:
            bounds.append(Bound(name, rate_rps))
            continue
        upper = bounds[-1]
        share = Ratio(rate_rps / upper.rate_rps, None, None)
        if name in (ROOFLINE, TRANSPORT):
            share = Ratio(share.ratio, share.ratio, share.ratio)
        elif name == MODEL:
            share = _within_rounds(result.rates("model"), upper.rate_rps) or share
        elif name == PIPELINE and upper.name == MODEL:
            share = _within_rounds(result.rates("pipeline"), result.rates("model")) or share
        elif name == SERVED and upper.name in (PIPELINE, TRANSPORT) and row.efficiency is not None:
            ends = (row.efficiency, row.efficiency_low, row.efficiency_high)
            share = Ratio(*(end and end / (left or 1.0) for end in ends))  # type: ignore[arg-type]
        bounds.append(Bound(name, rate_rps, upper.name, upper.rate_rps, share))
    return bounds


def _within_rounds(rates: Sequence[float | None], others: Sequence[float | None] | float) -> Ratio | None:
    """The ratio of two series of rates by round, or to a constant; None where they have no common round."""
    series = {"lower": rates, "upper": [others] * len(rates) if isinstance(others, float) else others}
    if not any(a and b for a, b in zip(series["lower"], series["upper"], strict=True)):
        return None
    return ratio(series, "lower", "upper", reference="upper")


def transport_ms(result: Result) -> float | None:
    """CPU time of the server's processes for a request to a model that does nothing; None where unknown."""
    null = result.null
    if null is None or null.server_cores is None or not null.rate_rps:
        return None
    return 1000 * null.server_cores / null.rate_rps


def transport_share(result: Result) -> float | None:
    """Share of the pipeline's rate that is left where server and load generator take CPU time, too.

    The least of three rates over the pipeline's: all cores over the CPU time of a request (pipeline, server
    and load generator), the null server's rate, and the pipeline's own, as transport costs nothing where
    the pipeline leaves cores idle. None where one is unknown.
    """
    pipeline_rps, pipeline_ms = (
        result.compared.pipeline_rps,
        mean(result.in_process("pipeline"), "workers_cpu_ms"),
    )
    server_ms, client_ms, null = transport_ms(result), result.client_ms, result.null
    if not pipeline_rps or pipeline_ms is None or server_ms is None or null is None or not null.rate_rps:
        return None
    budget_rps = 1000 * result.cores / (pipeline_ms + server_ms + (client_ms or 0.0))
    return min(1.0, budget_rps / pipeline_rps, null.rate_rps / pipeline_rps)
