"""Upper bounds of the rate, from the hardware's peak down to the served rate, in images/s = requests/s.

Each bound limits the next; its share of the one before it is what is left of the rate. A share above 1 by
more than its interval is an error of measuring.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from litmeter.report.results import Result, mean
from litmeter.stats.comparison import Ratio, ratio

DATASHEET = "datasheet"
ROOFLINE = "roofline"
MODEL = "model"
PIPELINE = "pipeline"
TRANSPORT = "pipeline + transport"
SERVED = "served"
Rates = list[float | None] | float | None
"""A rate by round, or one for all of them; None where it is unknown."""
BOUND_NAMES = (DATASHEET, ROOFLINE, MODEL, PIPELINE, TRANSPORT, SERVED)
UNKNOWN = Ratio(1.0, None, None)


@dataclass(frozen=True)
class Bound:
    """One bound of the rate.

    Attributes:
        upper, upper_rps: name and rate of the bound before it; empty and 0 for the first.
        share: of the bound before it, with a 95% interval where one is known; 1 for the first.
    """

    name: str
    rate_rps: float
    upper: str = ""
    upper_rps: float = 0.0
    share: Ratio = UNKNOWN

    @property
    def is_loss(self) -> bool:
        """Whether it lies below the bound before it by more than the interval of their ratio."""
        return self.share.resolved and self.share.ratio < 1

    @property
    def is_error(self) -> bool:
        """Whether it lies above the bound before it by more than the interval of their ratio."""
        return self.share.resolved and self.share.ratio > 1


def bounds_of(result: Result, ceilings: Mapping[str, Any]) -> list[Bound]:
    """The bounds of one configuration, from the highest; bounds of unknown rate are left out.

    1. datasheet: the datasheet's peak over FLOPs per image, where the device is in the table;
    2. roofline: measured peak and memory bandwidth, at the best batch size;
    3. model in-process; 4. pipeline in-process: decode, preprocess and model, at the same batch size;
    5. pipeline and transport on the same cores: see ``transport_rates``;
    6. served.

    The last four are of the comparison, their ratios within its rounds.

    Args:
        ceilings: metrics/ceilings.json.
    """
    row, transport = result.compared, transport_rates(result)
    datasheet, roofline = (
        ceilings.get(f"{name}_{result.serve.precision}_rps") for name in (DATASHEET, ROOFLINE)
    )
    left = _share(transport, result.rates("pipeline"))
    known: dict[str, tuple[float | None, Rates]] = {
        DATASHEET: (datasheet, datasheet),
        ROOFLINE: (roofline, roofline),
        MODEL: (row.model_rps, result.rates("model")),
        PIPELINE: (row.pipeline_rps, result.rates("pipeline")),
        TRANSPORT: (row.pipeline_rps * left.ratio if row.pipeline_rps and left else None, transport),
        SERVED: (row.rate_rps, result.rates("served")),
    }
    bounds: list[Bound] = []
    above: Rates = None
    for name, (rate_rps, rates) in known.items():
        if rate_rps and bounds:
            upper = bounds[-1]
            share = _share(rates, above) or Ratio(rate_rps / upper.rate_rps, None, None)
            bounds.append(Bound(name, rate_rps, upper.name, upper.rate_rps, share))
        elif rate_rps:
            bounds.append(Bound(name, rate_rps))
        above = rates if rate_rps else above
    return bounds


def _share(rates: Rates, above: Rates) -> Ratio | None:
    """The ratio of two series of rates by round, or of a constant; None where they have no common round."""
    if not rates or not above:
        return None
    if isinstance(rates, float) and isinstance(above, float):
        return Ratio(rates / above, rates / above, rates / above)
    rounds = max(len(one) for one in (rates, above) if isinstance(one, list))
    lower, upper = ([one] * rounds if isinstance(one, float) else one for one in (rates, above))
    if not any(a and b for a, b in zip(lower, upper, strict=True)):
        return None
    return ratio({"lower": lower, "upper": upper}, "lower", "upper", reference="upper")


def transport_ms(result: Result) -> float | None:
    """CPU time of the server's processes for a request to a model that does nothing; None where unknown."""
    null = result.null
    if null is None or null.server_cores is None or not null.rate_rps:
        return None
    return 1000 * null.server_cores / null.rate_rps


def transport_rates(result: Result) -> list[float | None]:
    """Rates by round of the pipeline where server and load generator take CPU time, too.

    The least of three: all cores over the CPU time of a request (pipeline, server and load generator), the
    null server's rate, and the pipeline's own, as transport costs nothing where the pipeline leaves cores
    idle. Empty where one is unknown.
    """
    server_ms, null = transport_ms(result), result.null
    if server_ms is None or null is None or not null.rate_rps:
        return []
    more_ms = server_ms + (mean(result.served, "client_cpu_ms") or 0.0)
    rows = [
        replace(
            row,
            rate_rps=min(row.rate_rps, null.rate_rps, 1000 * result.cores / (row.workers_cpu_ms + more_ms)),
        )
        for row in result.in_process("pipeline")
        if row.rate_rps and row.workers_cpu_ms is not None
    ]
    return result.by_round(rows)
