"""Why each configuration is as fast as it is: its bounds, what limits it, and what cannot be true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from servebench.report.bounds import Bound, bounds_of, measuring_errors
from servebench.report.diagnosis import diagnose
from servebench.report.limit import Limit
from servebench.report.results import Result


@dataclass(frozen=True)
class Explanation:
    """All configurations explained, by name.

    Attributes:
        errors: bounds that cannot be true, one line each.
    """

    bounds: Mapping[str, Sequence[Bound]]
    limits: Mapping[str, Limit]
    errors: Sequence[str]


def explain(results: Sequence[Result], ceilings: Mapping[str, Any]) -> Explanation:
    """Bounds, limit and errors of measuring of every configuration; ``ceilings`` is metrics/ceilings.json."""
    bounds = {result.name: bounds_of(result, ceilings) for result in results}
    return Explanation(
        bounds=bounds,
        limits={result.name: diagnose(result, bounds[result.name], ceilings) for result in results},
        errors=[error for name, own in bounds.items() for error in measuring_errors(name, own)],
    )
