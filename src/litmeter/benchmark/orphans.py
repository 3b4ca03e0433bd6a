"""Detection of results whose configuration is no longer in params.yaml."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from litmeter.errors import ReportError
from litmeter.paths import BenchmarkPaths


def check_no_orphans(known: Collection[str]) -> None:
    """Raise ReportError, with the command to remove them, where there are results of unknown names."""
    orphans = sorted(names_with_results() - set(known))
    if orphans:
        paths = [str(path) for name in orphans for path in BenchmarkPaths(name).outputs if path.exists()]
        raise ReportError(
            f"there are results of {', '.join(orphans)}, but params.yaml has only {', '.join(known)}; "
            f"remove them: rm -r {' '.join(paths)}"
        )


def names_with_results() -> set[str]:
    """Names of all configurations that have results in the working tree."""
    names = {path.stem for kind in ("benchmark", "accuracy") for path in Path("metrics", kind).glob("*.json")}
    names |= {path.name for path in Path("plots/benchmark").glob("*") if path.is_dir()}
    return {name for name in names if not name.startswith(".")}
