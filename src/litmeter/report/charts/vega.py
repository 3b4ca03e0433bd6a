"""A chart as a Vega-Lite specification, for report.html."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from litmeter.report.charts.chart import INK, Axis, Chart, Mark

ROW_PX, LINE_PX, HEIGHT_PX = 16, 15, 300
"""Of a row without its lines of text, of a line, and of a chart without rows."""
TEXT_COLOUR = "currentColor"
"""The page's own, light or dark."""
CONFIG: Mapping[str, Any] = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": TEXT_COLOUR,
        "titleColor": TEXT_COLOUR,
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "gridColor": TEXT_COLOUR,
        "gridOpacity": 0.15,
        "domain": False,
        "ticks": False,
        "labelPadding": 6,
        "labelSeparation": 5,
        "labelLimit": 320,
        "titleLimit": 600,
    },
}


def specification(chart: Chart) -> dict[str, Any]:
    """The chart in Vega-Lite 5; the page adds its width, and has title, note and legend itself."""
    layers = [_layer(chart, mark) for mark in chart.marks if mark.x or mark.y]
    if chart.y.names:
        layers = [_rows(chart.y, "left", chart.y.names), *layers]
    if chart.y.notes:
        layers.append(_rows(chart.y, "right", chart.y.notes))
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "description": f"{chart.title}. {chart.note}".strip(),
        "height": chart.height or _height(chart.y),
        "autosize": {"type": "fit-x", "contains": "padding"},
        "config": CONFIG,
        "layer": layers,
        "resolve": {"axis": {"y": "independent" if chart.y.names else "shared"}},
    }


def _height(axis: Axis) -> int:
    lines = max((note.count("\n") for note in axis.notes), default=0) + 1
    return (ROW_PX + LINE_PX * lines) * len(axis.names) if axis.names else HEIGHT_PX


def colour_of(mark: Mark) -> str:
    """The colour as the page has it."""
    return TEXT_COLOUR if mark.colour == INK else mark.colour


def _layer(chart: Chart, mark: Mark) -> dict[str, Any]:
    encoding: dict[str, Any] = {}
    if mark.kind != "across":
        # Below rows the page has the title: it may be wider than what texts leave of a narrow page.
        encoding["x"] = _position("x", replace(chart.x, title="") if chart.y.names else chart.x)
    if mark.kind != "along":
        encoding["y"] = _position("y", chart.y)
    if mark.x2 is not None:
        encoding["x2"] = {"field": "x2"}
    if mark.y2 is not None:
        encoding["y2"] = {"field": "y2"}
    if mark.kind == "line":
        encoding["order"] = {"field": "place", "type": "quantitative"}
    if mark.kind == "text":
        encoding["text"] = {"field": "text"}
    elif mark.texts:
        encoding["tooltip"] = {"field": "text"}
    return {"data": {"values": _values(mark)}, "mark": _mark(chart, mark), "encoding": encoding}


def _values(mark: Mark) -> list[dict[str, Any]]:
    columns = {"x": mark.x, "y": mark.y, "x2": mark.x2 or (), "y2": mark.y2 or (), "text": mark.texts}
    rows = enumerate(zip_longest(*columns.values()))
    return [
        {"place": place, **{key: value for key, value in zip(columns, row, strict=True) if value is not None}}
        for place, row in rows
    ]


def _mark(chart: Chart, mark: Mark) -> dict[str, Any]:
    colour = {"color": colour_of(mark)}
    dash = {"strokeDash": [5, 4]} if mark.dashed else {}
    if mark.kind == "point":
        return {"type": "point", "size": 70, "filled": not mark.hollow, "opacity": 1, **colour}
    if mark.kind == "cross":
        return {"type": "point", "shape": "M-1,-1L1,1M-1,1L1,-1", "size": 50, "opacity": 1, **colour}
    if mark.kind == "line":
        return {"type": "line", "strokeWidth": 2, **dash, **colour}
    if mark.kind == "bar":
        outline: dict[str, Any] = {"fillOpacity": 0.25} if mark.hollow else {}
        if mark.name:  # a part of a whole, which may be as pale as the paper
            outline = {"stroke": TEXT_COLOUR, "strokeOpacity": 0.5, "strokeWidth": 0.5}
        size = {"height": {"band": 0.6}} if chart.y.names else {}
        return {"type": "bar", **size, **outline, **colour}
    if mark.kind == "band":
        return {"type": "area", "opacity": 0.2, **colour}
    if mark.kind == "text":
        return {"type": "text", "align": "left", "dx": 7, "fontSize": 12, **colour}
    return {"type": "rule", "strokeWidth": 2 if mark.kind == "range" else 1, **dash, **colour}


def _position(channel: str, axis: Axis) -> dict[str, Any]:
    if axis.names:
        scale: dict[str, Any] = {"domain": list(axis.names)}
        return {"field": channel, "type": "nominal", "sort": None, "scale": scale, "axis": None}
    scale = {"type": "log"} if axis.log else {}
    domain: Sequence[float | None] = (axis.low, axis.high)
    if None not in domain:
        scale |= {"domain": list(domain), "nice": False}
    elif axis.low is not None:
        scale["domainMin"] = axis.low
    # Vega leaves out every second one of given values if there are more than its count.
    ticks = {"values": list(axis.places)} if axis.places else {"tickCount": 6}
    shown: dict[str, Any] = {"title": axis.title or None, **ticks}
    shown["format"] = "%" if axis.percent else ",.10~g"
    return {"field": channel, "type": "quantitative", "scale": scale, "axis": shown}


def _rows(axis: Axis, side: str, texts: Sequence[str]) -> dict[str, Any]:
    """Texts beside the rows, as labels of an axis: the drawing leaves them the room that they need."""
    lines = {name: text.split("\n") for name, text in zip(axis.names, texts, strict=True)}
    shown = {"title": None, "orient": side, "grid": False, "labelExpr": f"({json.dumps(lines)})[datum.value]"}
    position = {"field": "y", "type": "nominal", "sort": None, "scale": {"domain": list(axis.names)}}
    return {
        "data": {"values": [{"y": name} for name in axis.names]},
        "mark": {"type": "point", "opacity": 0},
        "encoding": {"y": {**position, "axis": shown}},
    }
