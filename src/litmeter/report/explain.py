"""Bounds and diagnosis of every configuration, and errors of measuring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from litmeter.report.bounds import Bound, bounds_of, measuring_errors
from litmeter.report.diagnosis import diagnose
from litmeter.report.losses import Diagnosis
from litmeter.report.results import Result


@dataclass(frozen=True)
class Explanation:
    """Bounds and diagnosis, by configuration.

    Attributes:
        errors: a line for each bound that lies above the one before it.
    """

    bounds: Mapping[str, Sequence[Bound]]
    diagnoses: Mapping[str, Diagnosis]
    errors: Sequence[str]


def explain(results: Sequence[Result], ceilings: Mapping[str, Any]) -> Explanation:
    """Compute the bounds and diagnose every configuration; ``ceilings`` is metrics/ceilings.json."""
    bounds_by_name = {result.name: bounds_of(result, ceilings) for result in results}
    return Explanation(
        bounds=bounds_by_name,
        diagnoses={
            result.name: diagnose(result, bounds_by_name[result.name], ceilings) for result in results
        },
        errors=[error for name, bounds in bounds_by_name.items() for error in measuring_errors(name, bounds)],
    )
