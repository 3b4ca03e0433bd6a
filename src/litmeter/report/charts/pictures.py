"""The pictures in assets/results/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from litmeter.benchmark.rows import ComparisonRow
from litmeter.paths import PICTURES_FOLDER
from litmeter.report.bounds import Bound
from litmeter.report.charts.chart import Chart
from litmeter.report.charts.compared import comparison, latency
from litmeter.report.charts.configuration import bounds, rates, usage
from litmeter.report.charts.parts import batch_sizes, stages
from litmeter.report.charts.png import save
from litmeter.report.results import Result


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
