"""Capacities that were measured, and how many machines a rate needs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from servebench.benchmark.capacity_rows import CapacityMetrics, sentence
from servebench.errors import ReportError
from servebench.inference.card import read_card
from servebench.params import Params
from servebench.paths import MACHINE, MODEL, CapacityPaths
from servebench.system.files import read_json

EXAMPLE_RPS = 1000.0
"""The rate of README's example."""
SPARE_MACHINES = 1
"""One may fail, and the others still keep to the objective."""


def provenance(params: Params, name: str) -> dict[str, str]:
    """What a capacity holds for: machine, model and configuration."""
    return {
        "machine": read_json(MACHINE)["id"],
        "weights_sha256": read_card(MODEL.exported).weights_sha256,
        "serve": json.dumps(params.configuration(name).model_dump(), sort_keys=True),
    }


def read_capacity(params: Params, name: str) -> CapacityMetrics:
    """The measured capacity of a configuration.

    Raises:
        ReportError: there is none, or it is that of another machine, model, configuration or objective.
    """
    path = CapacityPaths(name).metrics
    try:
        content: Mapping[str, Any] = read_json(path)
        measured_for = {key: content[key] for key in provenance(params, name)}
        metrics = CapacityMetrics(**{k: v for k, v in content.items() if k not in measured_for})
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror}; `make capacity` makes it") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ReportError(f"{path}: malformed ({error!r}); `make capacity` makes it") from error
    objective = (params.objective.slo_ms, params.objective.miss)
    if measured_for != provenance(params, name) or (metrics.slo_ms, metrics.miss) != objective:
        what = "another machine, model, configuration or objective"
        raise ReportError(f"{path}: measured for {what}; run `make capacity`")
    return metrics


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
    text = f"{name} {sentence(metrics)}"
    if needed is None:
        return f"{text}."
    return f"{text}; {rate_rps:,.0f} a second need {needed:,} such machines, {SPARE_MACHINES} of them spare."
