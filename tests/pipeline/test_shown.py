"""Eight configurations, as DVC shows them in a terminal of 120 columns; `less -S` cuts off what is beyond."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator

import pytest

from litmeter.paths import SUMMARY
from litmeter.system.files import read_json, write_json
from tests.pipeline.conftest import Clone
from tests.support.project import ROOT

WIDTH = 120
RATES = {
    "candidate": 158.0,
    "e1": 35.2,
    "e2": 29.8,
    "e3": 23.3,
    "e4": 27.1,
    "e5": 15.3,
    "e6": 16.3,
    "e7": 1270.0,
}
OTHERS = {name: rate + 1 for name, rate in RATES.items()}


def documented() -> list[str]:
    """Every `dvc exp show` of the documents."""
    texts = [path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))]
    return [line for text in texts for line in text.splitlines() if line.startswith("dvc exp show")]


@pytest.fixture(scope="module")
def eight(new_clone: Callable[[], Clone]) -> Clone:
    """A fresh clone, in which nothing has run, with the committed rates of eight configurations."""
    clone = new_clone()
    write_json(clone.path / SUMMARY, RATES)
    clone.commit("eight configurations")
    return clone


@pytest.fixture
def measured(eight: Clone) -> Iterator[Clone]:
    """The same with other rates in the working tree."""
    write_json(eight.path / SUMMARY, OTHERS)
    yield eight
    eight.git("checkout", "-q", ".")


def test_metrics_show_has_a_column_per_configuration(eight: Clone) -> None:
    lines = eight.in_terminal(eight.dvc_path, "metrics", "show", columns=WIDTH)
    assert lines[0].split() == ["Path", *RATES]
    assert lines[1].split() == [str(SUMMARY), *map(str, RATES.values())]
    assert max(map(len, lines)) <= WIDTH


def test_metrics_diff_has_a_row_per_configuration(measured: Clone) -> None:
    lines = measured.in_terminal(measured.dvc_path, "metrics", "diff", columns=WIDTH)
    rows = [line.split() for line in lines[1:] if line]
    assert [row[:2] for row in rows] == [[str(SUMMARY), name] for name in RATES]
    assert [[float(cell) for cell in row[2:4]] for row in rows] == [
        list(pair) for pair in zip(RATES.values(), OTHERS.values(), strict=True)
    ]
    assert max(map(len, lines)) <= WIDTH


def test_metrics_diff_all_has_unchanged_rows_too(eight: Clone) -> None:
    assert json.loads(eight.dvc("metrics", "diff", "--json").stdout) == {}
    lines = eight.in_terminal(eight.dvc_path, "metrics", "diff", "--all", columns=WIDTH)
    rows = [line.split() for line in lines[1:] if line]
    assert [(row[1], float(row[-1])) for row in rows] == [(name, 0.0) for name in RATES]


@pytest.mark.parametrize("command", sorted({"dvc exp show", "dvc exp show --only-changed", *documented()}))
def test_exp_show_has_every_configuration_in_120_columns(measured: Clone, command: str) -> None:
    lines = measured.in_terminal(measured.dvc_path, *shlex.split(command)[1:], columns=WIDTH)
    assert_shown(lines, {"workspace": OTHERS, "main": RATES})


def test_an_experiments_own_row_leaves_the_columns_visible(ran: Clone) -> None:
    """Its name, as DVC makes it, is the widest of the first column."""
    write_json(ran.path / SUMMARY, OTHERS)
    try:
        ran.dvc("exp", "save")
        lines = ran.in_terminal(ran.dvc_path, "exp", "show", "--only-changed", columns=WIDTH)
        assert_shown(lines, {"workspace": OTHERS, "└──": OTHERS})
        assert re.search(r"[0-9a-f]{7} \[[a-z]{5}-[a-z]{4}\]", "\n".join(lines))
    finally:
        ran.dvc("exp", "remove", "-A")
        ran.git("checkout", "-q", ".")


def assert_shown(lines: list[str], rows: dict[str, dict[str, float]]) -> None:
    """The named rows have these rates below their names, within the terminal and none shortened."""
    [head] = [line[:WIDTH] for line in lines if line.split()[:1] == ["Experiment"]]
    ends = {}
    for name in RATES:
        found = re.search(rf"(?<!\S){name}(?!\S)", head)
        assert found, f"{name} is not in {head}"
        ends[name] = found.end()
    assert list(ends) == sorted(ends, key=lambda name: ends[name])
    assert not any("…" in line[:WIDTH] for line in lines)
    for first, rates in rows.items():
        [row] = [line for line in lines if line.split()[:1] == [first]]
        assert {name: float(row[: ends[name]].split()[-1]) for name in RATES} == rates


def test_the_committed_results_are_shown_a_row_each(new_clone: Callable[[], Clone]) -> None:
    """In a fresh clone, before anything has run."""
    clone = new_clone()
    names = [path.stem for path in (clone.path / "metrics/benchmark").glob("*.json")]
    shown = clone.in_terminal(clone.dvc_path, "metrics", "show", "metrics/benchmark", columns=WIDTH)
    assert sorted(line.split()[0] for line in shown[1:] if line) == sorted(
        f"metrics/benchmark/{name}.json" for name in names
    )
    head, *_ = clone.in_terminal(clone.dvc_path, "metrics", "show", columns=WIDTH)
    assert sorted(head.split()) == sorted(["Path", *read_json(clone.path / SUMMARY)])
