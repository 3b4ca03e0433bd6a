"""Draw all plots of the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from servebench.benchmark.rows import ComparisonRow
from servebench.paths import PICTURES_FOLDER
from servebench.report.bounds import Bound
from servebench.report.plots.comparison import comparison
from servebench.report.plots.configuration import configuration
from servebench.report.plots.curves import batch_sizes, latency_curves
from servebench.report.plots.ratios import ratios
from servebench.report.plots.stages import stages
from servebench.report.plots.style import save
from servebench.report.plots.waterfall import waterfall
from servebench.report.results import Result


def draw_all(
    results: Sequence[Result],
    bounds_by_name: Mapping[str, Sequence[Bound]],
    compared: Sequence[ComparisonRow],
    reference: str,
    slo_ms: float,
) -> None:
    """Draw a plot per configuration and those that compare all; remove the plots of other configurations."""
    figures = {result.name: configuration(result) for result in results} | {
        "ratios": ratios(compared, reference),
        "comparison": comparison(results, slo_ms),
        "waterfall": waterfall(bounds_by_name),
        "stages": stages(results),
        "latency": latency_curves(results, slo_ms),
        "batch_sizes": batch_sizes(results),
    }
    for name, figure in figures.items():
        save(figure, PICTURES_FOLDER / f"{name}.png")
    for path in PICTURES_FOLDER.glob("*.png"):
        if path.stem not in figures:
            path.unlink()
