"""Charts: drawn twice from one source, in colours that everybody can tell apart."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from PIL import Image

from litmeter.benchmark.rows import BatchRow, ComparisonRow
from litmeter.params import ServeSettings
from litmeter.paths import PICTURES_FOLDER
from litmeter.report.charts.chart import Axis, Chart, Kind, Mark, spread
from litmeter.report.charts.compared import COMPARISON_TITLE, comparison, latency, ratio_note
from litmeter.report.charts.configuration import BOUNDS_TITLE, bounds, rates
from litmeter.report.charts.parts import BATCHES_TITLE, STAGES_TITLE, batch_sizes, stages
from litmeter.report.charts.pictures import draw_pictures
from litmeter.report.charts.png import DRAW, INK_COLOUR, draw
from litmeter.report.charts.vega import specification
from litmeter.report.explain import explain
from litmeter.report.results import Result
from tests.support.project import ROOT
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


def charts() -> Iterator[Chart]:
    both = results()
    yield comparison(TURNS, "e1_base", both)
    yield latency(TURNS, TURNS, 100.0)
    yield stages(both)
    yield batch_sizes(both)
    for one in both:
        yield bounds(one, explain(both, CEILINGS).bounds[one.name])
        yield rates(one)


def test_both_drawers_know_every_kind_of_mark() -> None:
    kinds = get_args(Kind)
    assert set(DRAW) == set(kinds)
    marks = [
        Mark(
            kind,
            x=[1.0, 2.0],
            y=[1.0, 3.0],
            y2=[2.0, 4.0] if kind in ("band", "range") else None,
            texts=["a", "b"],
        )
        for kind in kinds
    ]
    chart = Chart("all", Axis("x"), Axis("y"), marks)
    assert len(draw([chart]).axes[0].get_children()) > len(kinds)
    drawn = [layer["mark"]["type"] for layer in specification(chart)["layer"]]
    assert drawn == ["point", "point", "line", "bar", "rule", "area", "text", "rule", "rule"]


@pytest.mark.parametrize("number", range(8))
def test_both_drawers_show_the_same(number: int) -> None:
    chart = list(charts())[number]
    spec = specification(chart)
    json.dumps(spec, allow_nan=False)
    axes = draw([chart]).axes[0]
    assert axes.get_title(loc="left").replace("\n", " ") == chart.title
    assert spec["description"].startswith(chart.title)
    rows = [text.get_text() for text in axes.get_yticklabels()]
    if chart.y.names:
        assert rows == list(chart.y.names)
        [names] = [
            layer["encoding"]["y"]["axis"]
            for layer in spec["layer"]
            if (layer["encoding"].get("y", {}).get("axis") or {}).get("orient") == "left"
        ]
        assert all(name in names["labelExpr"] for name in rows)
    assert places_by_vega(spec, rows) == places_by_matplotlib(axes)


def places_by_vega(spec: dict[str, Any], rows: list[str]) -> list[tuple[str, list[tuple[float, float]]]]:
    """The colour and the places of all points, lines and bars; a row's name counts as its number."""
    found = []
    for layer in spec["layer"]:
        kind, values = layer["mark"]["type"], layer["data"]["values"]
        if kind in ("point", "line", "bar") and layer["mark"].get("opacity") != 0:
            places = [
                (row["x"], float(rows.index(row["y"]) if isinstance(row["y"], str) else row["y"]))
                for row in values
            ]
            found.append((layer["mark"]["color"].replace("currentColor", INK_COLOUR), places))
    return sorted(found)


def places_by_matplotlib(axes: Axes) -> list[tuple[str, list[tuple[float, float]]]]:
    across = {tuple(line.get_xdata()) for line in axes.lines} & {(0, 1)}
    found = [
        (
            str(line.get_color()),
            [(float(x), float(y)) for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)],
        )
        for line in axes.lines
        if tuple(line.get_xdata()) not in across and tuple(line.get_ydata()) != (0, 1)
    ]
    found += [
        (
            to_hex(bars.patches[0].get_facecolor()),
            [(bar.get_x() + bar.get_width(), bar.get_y() + bar.get_height() / 2) for bar in bars.patches],
        )
        for bars in axes.containers
    ]
    return sorted(found)


def test_titles_are_those_of_dvcs_plots() -> None:
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    titles = {options["title"] for plot in plots for options in plot.values()}
    assert {COMPARISON_TITLE, BOUNDS_TITLE, STAGES_TITLE, BATCHES_TITLE} <= titles


def test_parts_add_up_to_the_whole() -> None:
    for chart in (stages(results()), batch_sizes(results())):
        *_, last = chart.marks
        assert list(last.x) == pytest.approx([1.0] * len(chart.y.names))
        for before, after in itertools.pairwise(chart.marks):
            assert after.x2 == before.x
    assert [mark.name for mark in batch_sizes(results()).marks] == ["up to 1", "up to 4"]


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (compared("a", 60.0, 1), "3.00 (2.85 to 3.15)"),
        (compared("a", 20.0, 2), "1.00"),
        (replace(compared("a", 5.0, None), ratio_low=None, ratio_high=None), "0.25, not ranked"),
        (compared("a", None, None), "no answer"),
    ],
)
def test_a_rows_note_says_what_is_missing(row: ComparisonRow, text: str) -> None:
    assert ratio_note(row) == text


def test_the_axis_of_ratios_reaches_all_intervals_but_the_widest() -> None:
    near, far = compared("a", 60.0, 1), compared("b", 5.0, 2)  # 3 and 0.25 times the reference
    for ends, axis, shown, cut in [
        ((0.2, 0.3), (0.25 / 1.6, 3.0 * 1.6), (0.2, 0.3), False),
        ((0.1, 6.0), (0.1, 6.0), (0.1, 6.0), False),
        ((0.01, 60.0), (0.25 / 4, 3.0 * 4), (0.25 / 4, 3.0 * 4), True),
    ]:
        chart = comparison([near, replace(far, ratio_low=ends[0], ratio_high=ends[1])], "e1")
        assert (chart.x.low, chart.x.high) == pytest.approx(axis)
        [mark] = [mark for mark in chart.marks if mark.kind == "range" and list(mark.y) == ["b"]]
        assert (*mark.x, *mark.x2) == pytest.approx(shown)
        assert ("ends at the edge goes on" in chart.note) is cut


@pytest.mark.parametrize(
    ("values", "places"), [([1.0, 1.0, 1.0], [0.0, 1.0, 2.0]), ([5.0, 1.0, 1.5], [5.0, 0.75, 1.75]), ([], [])]
)
def test_labels_are_spread(values: list[float], places: list[float]) -> None:
    assert spread(values, 1.0) == places


@pytest.fixture
def _empty_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def draw_all(shown: list[Result], turns: list[ComparisonRow]) -> dict[str, bytes]:
    draw_pictures(shown, explain(shown, CEILINGS).bounds, turns, turns, turns[0].experiment, 400.0)
    return {path.stem: path.read_bytes() for path in PICTURES_FOLDER.iterdir()}


@pytest.mark.usefixtures("_empty_project")
def test_pictures_are_drawn_and_those_of_others_removed() -> None:
    PICTURES_FOLDER.mkdir(parents=True)
    (PICTURES_FOLDER / "gone.png").write_bytes(b"old")
    assert sorted(draw_all(results(), TURNS)) == sorted(["e1_base", "e2_none", *COMPARED])


@pytest.mark.usefixtures("_empty_project")
def test_the_same_results_make_the_same_pictures() -> None:
    assert draw_all(results(), TURNS) == draw_all(results(), TURNS)


@pytest.mark.usefixtures("_empty_project")
def test_another_rate_makes_other_pictures() -> None:
    pictures = []
    for rps in (20.0, 40.0):
        own = level(1, rps)
        pictures.append(draw_all([result("e1_base", [own], best=own)], [compared("e1_base", rps, 1)]))
    changed = {name for name in pictures[0] if pictures[0][name] != pictures[1][name]}
    assert changed == {"e1_base", "comparison", "latency"}


@pytest.mark.usefixtures("_empty_project")
def test_pictures_of_nothing_but_failures_are_drawn() -> None:
    draw_all([result("e1_none", [FAILED], stages={})], [compared("e1_none", None, None)])
    for name in ("e1_none", *COMPARED):
        with Image.open(PICTURES_FOLDER / f"{name}.png") as picture:
            picture.load()
            assert min(picture.size) > 100


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.15, 12.0, (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)),
        (1.0, 10.0, (1.0, 2.0, 5.0, 10.0)),
        (0.9, 1.2e6, (1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6)),
        (None, 10.0, ()),
    ],
)
def test_a_logarithmic_axis_has_round_ticks(low: float | None, high: float, ticks: tuple[float, ...]) -> None:
    axis = Axis("x", log=True, low=low, high=high)
    assert axis.places == pytest.approx(ticks)
    chart = Chart("a title", x=axis, y=Axis("y"), marks=[Mark("point", x=[2.0], y=[3.0])])
    [layer] = specification(chart)["layer"]
    own = layer["encoding"]["x"]["axis"]
    # Of more values than its count Vega would leave out every second one.
    assert own.get("values", []) == list(axis.places)
    assert ("tickCount" in own) is not bool(ticks)


def test_a_chart_of_nothing_but_silence_has_its_rows() -> None:
    spec = specification(comparison([compared("e1", None, None)], "e1"))
    labels = [layer["encoding"]["y"]["axis"]["labelExpr"] for layer in spec["layer"][::2]]
    assert any('"e1": ["e1"]' in label for label in labels)
    assert any("no answer" in label for label in labels)
