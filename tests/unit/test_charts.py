"""Charts: what is drawn where, and that both forms of it can be read."""

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

from litmeter.measure.capacity import CapacityResult, ProbeRow
from litmeter.measure.rows import BatchRow, ComparisonRow
from litmeter.params import ServeSettings
from litmeter.paths import PICTURES_FOLDER
from litmeter.report import charts
from litmeter.report.diagnosis import explain
from litmeter.report.drawing import (
    INK,
    NARROW,
    PAPER,
    WIDE,
    Chart,
    draw,
    svg,
)
from litmeter.report.results import Result
from tests.support.capacity import CAPACITY
from tests.support.search import WINNER
from tests.support.synthetic_results import CEILINGS, compared, level, result

COMPARED = ["batch_sizes", "comparison", "latency", "stages"]
SLOW = level(1, 20.0, 60.0)
TURNS = [compared("e1_base", 20.0, 2), compared("e2_none", None, None)]
FAILED = level(1, 1.0, None, invalid_reason="3 failed", batch_size=None, cpu_percent=None)


def results() -> list[Result]:
    batching = ServeSettings(max_batch_size=8)
    full = result("e1_base", [SLOW, level(8, 30.0, 300.0)], best=SLOW, serve=batching)
    more = replace(full, batches=[BatchRow(8, "1", 10), BatchRow(8, "4", 30), BatchRow(8, "inf", 0)])
    return [more, result("e2_none", [FAILED], stages={})]


def every_chart() -> Iterator[Chart]:
    both = results()
    yield charts.comparison(TURNS, "e1_base", both)
    yield charts.latency(TURNS, TURNS, 100.0)
    yield charts.stages(both)
    yield charts.batch_sizes(both)
    yield charts.changes({"a": (2.0, 1.9, 2.1), "b": (1.0, 0.9, 1.1)}, ["faster", "not resolved"])
    yield charts.tune([WINNER, replace(WINNER, name="full direct 2x1 b4", status="slower", ratio=0.5)])
    for one in both:
        yield charts.bounds(one, explain(both, CEILINGS).bounds[one.name])
        yield charts.rates(one)
    yield charts.usage(both[0])


def axes_of(chart: Chart, width: float = WIDE) -> Axes:
    return draw([chart], width).axes[0]


def points(axes: Axes) -> list[tuple[float, float]]:
    """Of all drawn points."""
    dots = [line.get_xydata() for line in axes.lines if line.get_marker() == "o"]
    return [(float(x), float(y)) for dot in dots for x, y in np.asarray(dot)]


def test_an_svg_is_text_in_the_pages_colours_and_needs_nothing_else() -> None:
    for chart in every_chart():
        drawn = svg(chart, "one", NARROW)
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


def test_what_is_pointed_at_says_its_value() -> None:
    drawn = svg(charts.latency(TURNS, TURNS, 100.0), "one")
    [title] = re.findall(r"<title>([^<]*)</title>", drawn)
    assert "20.0 req/s" in title
    assert "p95 100 ms" in title


def test_a_chart_without_data_is_no_svg() -> None:
    [_, failed] = results()
    assert svg(charts.stages([failed]), "one") == ""
    assert svg(charts.usage(failed), "one") == ""


def test_the_fastest_comes_first_with_what_it_costs() -> None:
    rows = [
        compared("e1", 20.0, 3),
        replace(compared("e2", 50.0, 2), earlier=True),
        compared("e3", None, None),
        replace(compared("e4", 2.0, None), ratio_low=None, ratio_high=None),
        compared("e5", 80.0, 1),
    ]
    chart = charts.comparison(rows, "e1", [result("e5", [SLOW])])
    assert list(chart.names) == ["e5", "e2", "e1", "e4", "e3"]
    assert [note.splitlines() for note in chart.notes] == [
        ["4.00 (3.80 to 4.20)", "4.5 s to start, 400 MiB"],
        ["2.50 (2.38 to 2.62), earlier"],
        ["1.00"],
        ["0.10, not ranked"],
        ["no answer"],
    ]
    assert points(axes_of(chart)) == [(4.0, 0), (2.5, 1), (1.0, 2), (0.1, 3)]


def test_bounds_have_a_bar_each_and_what_is_lost() -> None:
    own = results()[0]
    found = explain([own], CEILINGS).bounds["e1_base"]
    axes = axes_of(charts.bounds(own, found))
    whole, *lost = axes.containers
    assert [bar.get_width() for bar in whole.patches] == [bound.rate_rps for bound in found]
    ends = {bar.get_x() + bar.get_width() for bars in lost for bar in bars.patches}
    assert ends <= {bound.rate_rps for bound in found}
    assert ends


def test_parts_add_up_to_the_whole() -> None:
    for chart in (charts.stages(results()), charts.batch_sizes(results())):
        axes = axes_of(chart)
        widths = [[bar.get_width() for bar in bars.patches] for bars in axes.containers]
        assert [sum(parts) for parts in zip(*widths, strict=True)] == pytest.approx([1.0] * len(chart.names))
    assert axes.get_legend_handles_labels()[1] == ["up to 1", "up to 4"]


@pytest.fixture
def _empty_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def draw_all(shown: list[Result], turns: list[ComparisonRow]) -> dict[str, bytes]:
    charts.draw_pictures(shown, explain(shown, CEILINGS).bounds, turns, turns, turns[0].experiment, 400.0)
    return {path.stem: path.read_bytes() for path in PICTURES_FOLDER.iterdir()}


@pytest.mark.usefixtures("_empty_project")
def test_the_same_results_make_the_same_pictures_and_those_of_others_go() -> None:
    PICTURES_FOLDER.mkdir(parents=True)
    (PICTURES_FOLDER / "gone.png").write_bytes(b"old")
    first = draw_all(results(), TURNS)
    assert sorted(first) == sorted(["e1_base", "e2_none", *COMPARED])
    assert draw_all(results(), TURNS) == first


@pytest.mark.usefixtures("_empty_project")
def test_pictures_of_nothing_but_failures_are_drawn() -> None:
    draw_all([result("e1_none", [FAILED], stages={})], [compared("e1_none", None, None)])
    for name in ("e1_none", *COMPARED):
        with Image.open(PICTURES_FOLDER / f"{name}.png") as picture:
            picture.load()
            assert min(picture.size) > 100


def test_a_picture_is_drawn_of_any_search_for_a_capacity() -> None:
    probe = ProbeRow("search", 80.0, 79.0, 333.0, 1000, 0.02, 0.005, 77.0, 20.0, 70.0, 90.0, 0, 1.02, "")
    nothing = replace(CAPACITY, capacity_rps=None, low_rps=None, high_rps=None, peak_rps=None)
    other = replace(probe, rate_rps=99.0, missed=0.3, p99_ms=None)
    for rows, metrics in (([], nothing), ([probe], CAPACITY), ([probe, other], nothing)):
        late, latencies = charts.capacity("candidate", CapacityResult(metrics, rows, None))
        assert svg(latencies, "latencies")
        assert len(points(axes_of(late))) == len(rows) + (metrics.capacity_rps is not None)
