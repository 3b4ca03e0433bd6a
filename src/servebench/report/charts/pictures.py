"""The pictures in assets/results/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from servebench.benchmark.rows import ComparisonRow
from servebench.paths import PICTURES_FOLDER
from servebench.report.bounds import Bound
from servebench.report.charts.chart import Chart
from servebench.report.charts.compared import comparison, latency
from servebench.report.charts.configuration import bounds, rates, usage
from servebench.report.charts.parts import batch_sizes, stages
from servebench.report.charts.png import save
from servebench.report.results import Result


def draw_pictures(
    results: Sequence[Result],
    bounds_by_name: Mapping[str, Sequence[Bound]],
    compared: Sequence[ComparisonRow],
    all_loads: Sequence[ComparisonRow],
    reference: str,
    slo_ms: float,
) -> None:
    """Draw those that compare all and one per configuration; remove those of other configurations.

    Args:
        compared: rows of the first load.
        all_loads: rows of all loads.
    """
    pictures: dict[str, list[Chart]] = {
        result.name: [bounds(result, bounds_by_name[result.name]), rates(result), *usage(result)]
        for result in results
    } | {
        "comparison": [comparison(compared, reference, results)],
        "latency": [latency(all_loads, compared, slo_ms)],
        "stages": [stages(results)],
        "batch_sizes": [batch_sizes(results)],
    }
    for name, charts in pictures.items():
        save(PICTURES_FOLDER / f"{name}.png", charts)
    for path in PICTURES_FOLDER.glob("*.png"):
        if path.stem not in pictures:
            path.unlink()
