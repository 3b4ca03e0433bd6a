"""The rate of each configuration, as DVC shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from litmeter.benchmark.rows import ComparisonRow
from litmeter.params import CANDIDATE


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Each name up to its first underscore, where that is unique: e1 for e1_baseline."""
    prefixes = {name: name.split("_")[0] for name in names}
    counts = Counter(prefixes.values())
    return {name: prefix if counts[prefix] == 1 else name for name, prefix in prefixes.items()}


def rates(compared: Sequence[ComparisonRow]) -> dict[str, float]:
    """Requests per second of each configuration in the comparison, three significant digits.

    0 for one that answered nothing: DVC would leave out a column without a value. One short key per
    configuration is a readable `dvc exp show`.
    """
    short = short_names([row.experiment for row in compared])
    by_name = {short[row.experiment]: significant(row.rate_rps or 0.0) for row in compared}
    # The candidate, which `-S serve.…` changes, comes first: a terminal cuts off the last columns.
    return {CANDIDATE: by_name.pop(CANDIDATE), **by_name}


def significant(value: float) -> float:
    """``value`` with three significant digits."""
    return float(f"{value:.3g}")
