"""Capacities that were measured, and how many machines a rate needs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from litmeter.benchmark.capacity import (
    ESTIMATED,
    CapacityMetrics,
    CapacityResult,
    ProbeRow,
    is_steady,
)
from litmeter.errors import ReportError
from litmeter.inference.card import exported_weights
from litmeter.params import Params
from litmeter.paths import MACHINE, MODEL, CapacityPaths
from litmeter.report.printed import capacity_text
from litmeter.stats.capacity import BLOCKS, CapacitySearch, Probe
from litmeter.system.files import read_json, read_rows

EXAMPLE_RPS = 1000.0
"""The rate of README's example."""
SPARE_MACHINES = 1
"""One may fail, and the others still keep to the objective."""


def provenance(params: Params, name: str) -> dict[str, str | None]:
    """What a capacity holds for: machine, model (None where there is none here) and configuration."""
    return {
        "machine": read_json(MACHINE)["id"],
        "weights_sha256": exported_weights(MODEL.exported),
        "serve": json.dumps(params.configuration(name).model_dump(), sort_keys=True),
    }


def read_capacity(params: Params, name: str) -> CapacityMetrics:
    """The measured capacity of a configuration.

    Raises:
        ReportError: there is none, or it is that of another machine, model, configuration or objective.
    """
    path = CapacityPaths(name).metrics
    here = provenance(params, name)
    try:
        content: Mapping[str, Any] = read_json(path)
        measured_for = {key: content[key] for key in here}
        metrics = CapacityMetrics(**{k: v for k, v in content.items() if k not in measured_for})
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror}; `make capacity` makes it") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ReportError(f"{path}: malformed ({error!r}); `make capacity` makes it") from error
    objective = (params.objective.slo_ms, params.objective.miss)
    same = all(measured_for[key] == value for key, value in here.items() if value is not None)
    if not same or (metrics.slo_ms, metrics.miss) != objective:
        what = "another machine, model, configuration or objective"
        raise ReportError(f"{path}: measured for {what}; run `make capacity`")
    return metrics


def read_capacity_result(params: Params, name: str) -> CapacityResult:
    """The measured capacity with its probes and the curve through them.

    Raises:
        ReportError: see ``read_capacity``.
    """
    metrics = read_capacity(params, name)
    rows = read_rows(CapacityPaths(name).probes, ProbeRow)
    probes = [_probe(row) for row in rows if not row.void_reason]
    search = CapacitySearch(metrics.miss, params.objective.tolerance, probes)
    return CapacityResult(metrics, rows, search.estimate() if metrics.status in ESTIMATED else None)


def _probe(row: ProbeRow) -> Probe:
    """A probe of the row's share and error; the shares of its parts are not kept."""
    spread = row.missed_error * math.sqrt(BLOCKS - 1)
    missed = tuple(row.missed + (spread if number % 2 else -spread) for number in range(BLOCKS))
    return Probe(row.rate_rps, row.peak_rps, missed, row.requests, is_steady(row.slowest_moment))


def capacities(params: Params) -> dict[str, CapacityResult]:
    """That of each configuration of the objective, where it has been measured for what there is now."""
    found = {}
    for name in params.objective.configurations:
        with suppress(ReportError, OSError, ValueError):  # `make capacity` is asked for by name
            found[name] = read_capacity_result(params, name)
    return found


def machines_needed(metrics: CapacityMetrics, rate_rps: float) -> int | None:
    """Machines for a rate by the capacity's lower limit, with SPARE_MACHINES; None where it is not known.

    The limit of a capacity that is not resolved is a low one, and so are the machines more.
    """
    if not metrics.low_rps:
        return None
    return math.ceil(rate_rps / metrics.low_rps) + SPARE_MACHINES


def capacity_sentence(name: str, metrics: CapacityMetrics, rate_rps: float = EXAMPLE_RPS) -> str:
    """The capacity, and how many machines a rate needs."""
    needed = machines_needed(metrics, rate_rps)
    text = f"{name} {capacity_text(metrics)}"
    if needed is None:
        return f"{text}."
    return f"{text}; {rate_rps:,.0f} a second need {needed:,} such machines, {SPARE_MACHINES} of them spare."
