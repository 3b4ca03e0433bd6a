"""Charts: the drawn figures, and that PNG and SVG can be read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from litmeter.measure.capacity import CapacityResult, curve_of
from litmeter.paths import PICTURES_FOLDER
from litmeter.report import charts
from litmeter.report.charts import INK, NARROW, PAPER, WIDE, Chart, figure_of, svg
from litmeter.report.results import Result
from tests.support.capacity import CAPACITY, OFFERS, PROBES, probe
from tests.support.search import WINNER
from tests.support.synthetic_results import compared, result

SILENT = result("e2", None, row=compared("e2", None, None))


def results() -> list[Result]:
    rows = [compared("e1", 20.0, 3), compared("e3", 60.0, 1), compared("e5", 40.0, 2)]
    rows.insert(2, replace(compared("e4", 2.0, None), earlier="2026-11-29"))
    return [SILENT, *(result(row.experiment, row.rate_rps, row=row) for row in rows)]


def every_chart() -> Iterator[Chart]:
    yield charts.comparison(results(), "e1")
    yield charts.stages(results())
    yield from charts.capacity(capacities())
    yield charts.prices(OFFERS, 1000.0)
    yield charts.tune([WINNER, replace(WINNER, name="full direct 2x1 b4", status="slower", ratio=0.5)])
    yield charts.tune([replace(WINNER, name="2x1 b4 0ms")])


def capacities() -> dict[str, CapacityResult]:
    """The candidate has too few answers for a p99."""
    slow = [replace(row, p99_ms=None) for row in PROBES]
    curve = curve_of([*PROBES, probe(400.0, 0.5)], 0.05)
    return {"e1": CapacityResult(CAPACITY, PROBES, curve), "candidate": CapacityResult(CAPACITY, slow, None)}


def axes_of(chart: Chart, width: float = WIDE) -> Axes:
    return figure_of([chart], width).axes[0]


def points(axes: Axes) -> list[tuple[float, float]]:
    """Of all drawn points."""
    dots = [line.get_xydata() for line in axes.lines if line.get_marker() == "o"]
    return [(float(x), float(y)) for dot in dots for x, y in np.asarray(dot)]


def test_an_svg_is_text_in_the_pages_colours_and_needs_nothing_else() -> None:
    for chart in every_chart():
        drawn = svg(chart, NARROW)
        ElementTree.fromstring(drawn)
        texts = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", drawn))
        assert all(name in texts for name in chart.names)
        for note in chart.notes:
            assert all(line in texts for line in note.splitlines())
        assert "currentColor" in drawn
        assert not {INK, PAPER} & set(re.findall(r"#[0-9a-f]{6}\b", drawn))
        assert not re.search(r"<script|https?:|<style|<image", drawn)
        references = set(re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", drawn))
        assert {one or other for one, other in references} <= set(re.findall(r'id="([^"]+)"', drawn))


def test_tooltips_have_the_rate() -> None:
    titles = re.findall(r"<title>([^<]*)</title>", svg(charts.comparison(results(), "e1")))
    assert len(titles) == 4
    assert "60.0 req/s" in titles[0]


def test_a_chart_without_data_is_no_svg() -> None:
    assert svg(charts.stages([replace(SILENT, turns=[])])) == ""


def test_the_fastest_comes_first_with_what_it_costs_and_the_silent_last() -> None:
    silent, *others = results()
    unknown = replace(silent, metrics=silent.metrics.model_copy(update={"ready_s": None, "memory_mib": None}))
    chart = charts.comparison([unknown, *others], "e1")
    assert list(chart.names) == ["e3", "e5", "e1", "e4", "e2"]
    costs = "4.5 s to start, 400 MiB"
    assert [note.splitlines() for note in chart.notes] == [
        ["3.00 (2.85 to 3.15)", costs],
        ["2.00 (1.90 to 2.10)", costs],
        ["1.00", costs],
        ["0.10 (0.10 to 0.11), earlier, 2026-11-29", costs],
        ["no answer", "- s to start, - MiB"],
    ]
    assert points(axes_of(chart)) == [(3.0, 0), (2.0, 1), (1.0, 2), (0.1, 3)]


def test_latencies_are_medians_of_neighbouring_probes_that_have_them() -> None:
    latency, goodput = (axes_of(chart) for chart in charts.capacity(capacities()))
    lines = [line for line in latency.lines if list(line.get_xdata()) == [275.0, 335.0]]
    assert len(lines) == 3 + 2
    assert list(lines[1].get_ydata()) == pytest.approx([275.0 / 3, 335.0 / 3])
    good = [(row.offered_rps or 0) * (1 - (row.missed or 0)) for row in PROBES]
    assert [y for _, y in points(goodput)] == pytest.approx(2 * good)
    assert goodput.get_xlim() == latency.get_xlim()


def test_of_streams_first_and_further_pieces_are_drawn() -> None:
    own = replace(CAPACITY, slo_ms=None, first_ms=80.0)
    stream = {f"{name}_p50_ms": ms for name, ms in (("first", 60.0), ("piece", 7.0))}
    rows = [replace(row, stream=stream) for row in PROBES]
    first, piece, _ = (axes_of(chart) for chart in charts.capacity({"a": CapacityResult(own, rows, None)}))
    heights = [{float(y) for line in axes.lines for y in line.get_ydata()} for axes in (first, piece)]
    assert heights == [{60.0, 80.0}, {7.0}]
    assert "TTFT" in first.get_ylabel()


def test_the_cheapest_machine_is_the_first() -> None:
    chart = charts.prices(OFFERS, 1000.0)
    assert list(chart.names) == ["m2 candidate", "m1 candidate", "m3 candidate"]
    assert [y for _, y in points(axes_of(chart))] == [0, 1]
    assert [note.splitlines()[0] for note in chart.notes] == ["290 to 310 requests/s"] * 2 + ["- requests/s"]


def test_stages_add_up_to_the_whole() -> None:
    chart = charts.stages(results())
    widths = [[bar.get_width() for bar in bars.patches] for bars in axes_of(chart).containers]
    assert [sum(parts) for parts in zip(*widths, strict=True)] == pytest.approx([1.0] * len(chart.names))
    assert list(chart.names) == ["e1", "e3", "e5"]  # those with turns of this run


@pytest.mark.parametrize(
    ("shown", "names"),
    [(results(), ["comparison", "stages"]), ([SILENT], ["comparison"])],
    ids=["all", "silent"],
)
def test_the_same_results_make_the_same_pictures_and_those_of_others_go(
    shown: list[Result], names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    PICTURES_FOLDER.mkdir(parents=True)
    (PICTURES_FOLDER / "gone.png").write_bytes(b"old")

    def drawn() -> dict[str, bytes]:
        charts.draw_pictures(shown, "e1")
        return {path.stem: path.read_bytes() for path in PICTURES_FOLDER.iterdir()}

    first = drawn()
    assert sorted(first) == names
    assert drawn() == first
    for path in PICTURES_FOLDER.iterdir():
        with Image.open(path) as picture:
            picture.load()
            assert min(picture.size) > 100
