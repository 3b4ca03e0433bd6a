"""The rate of each configuration, as DVC shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from servebench.benchmark.rows import ComparisonRow
from servebench.params import CANDIDATE


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Each name up to its first underscore, where that is unique: e1 for e1_baseline."""
    prefixes = {name: name.split("_")[0] for name in names}
    counts = Counter(prefixes.values())
    return {name: prefix if counts[prefix] == 1 else name for name, prefix in prefixes.items()}


def rates(compared: Sequence[ComparisonRow]) -> dict[str, float | None]:
    """Requests per second of each configuration in the comparison, three significant digits.

    DVC shows them as its metrics: one short key per configuration is a readable `dvc exp show`.
    """
    short = short_names([row.experiment for row in compared])
    by_name = {short[row.experiment]: significant(row.rate_rps) for row in compared}
    # The candidate, which `-S serve.…` changes, comes first: a terminal cuts off the last columns.
    return {CANDIDATE: by_name.pop(CANDIDATE), **by_name}


def significant(value: float | None) -> float | None:
    """``value`` with three significant digits, None as it is."""
    return None if value is None else float(f"{value:.3g}")
