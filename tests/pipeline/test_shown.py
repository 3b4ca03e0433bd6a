"""Eight configurations, as DVC shows them in a terminal of 120 columns; `less -S` cuts off what is beyond."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import pytest

from litmeter.paths import OVER_BEFORE, SUMMARY
from litmeter.system.files import write_json
from tests.pipeline.conftest import Clone
from tests.support.project import ROOT

WIDTH = 120
E1_TO_E7 = (35.2, 29.8, 23.3, 27.1, 15.3, 16.3, 1270.0)
RATES = {"candidate": 158.0, **{f"e{number}": rate for number, rate in enumerate(E1_TO_E7, 1)}}
NUMBERS = {"ratio": 1.0213, "low": 0.9654, "high": 1.0803}
LISTS = {"changes": {"max_batch_size": [4, 8]}, "p95_ms": [65.2, 66.1], "p95_ratio": [1.01, 0.9, 1.2]}
CHANGE = NUMBERS | LISTS
OTHERS = {name: rate + 1 for name, rate in RATES.items()}


def documented() -> list[str]:
    """Every `dvc exp show` of the documents."""
    texts = [path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))]
    return [line for text in texts for line in text.splitlines() if line.startswith("dvc exp show")]


@pytest.fixture(scope="module")
def eight(ran: Clone) -> Iterator[Clone]:
    """Rates of eight configurations in the last commit; others in the tree and an experiment."""
    write_json(ran.path / SUMMARY, RATES)
    ran.commit("eight configurations")
    write_json(ran.path / SUMMARY, OTHERS)
    write_json(ran.path / OVER_BEFORE, CHANGE)
    ran.dvc("exp", "save")
    yield ran
    ran.git("reset", "-q", "--hard", "HEAD~1")
    ran.restore()


def test_metrics_show_has_a_column_per_configuration(eight: Clone) -> None:
    lines = eight.in_terminal(eight.dvc_path, "metrics", "show", columns=WIDTH)
    assert lines[0].split() == ["Path", *RATES, *sorted(NUMBERS)]
    assert lines[1].split() == [str(SUMMARY), *map(str, OTHERS.values()), "-", "-", "-"]
    numbers = (str(NUMBERS[key]) for key in sorted(NUMBERS))
    assert lines[2].split() == [str(OVER_BEFORE), *"--------", *numbers]
    assert max(map(len, lines)) <= WIDTH


@pytest.mark.smoke
def test_metrics_diff_has_a_row_per_configuration(eight: Clone) -> None:
    lines = eight.in_terminal(eight.dvc_path, "metrics", "diff", columns=WIDTH)
    rows = [line.split() for line in lines[1:] if line]
    changed = {row[1]: row[3] for row in rows if row[0] == str(OVER_BEFORE)}
    assert changed == {key: str(value) for key, value in NUMBERS.items()}
    rows = [row for row in rows if row[0] == str(SUMMARY)]
    assert [row[:2] for row in rows] == [[str(SUMMARY), name] for name in RATES]
    assert [[float(cell) for cell in row[2:4]] for row in rows] == [
        list(pair) for pair in zip(RATES.values(), OTHERS.values(), strict=True)
    ]
    assert max(map(len, lines)) <= WIDTH


@pytest.mark.parametrize("command", sorted({"dvc exp show", "dvc exp show --only-changed", *documented()}))
def test_exp_show_has_every_configuration_in_120_columns(eight: Clone, command: str) -> None:
    """An experiment's own row has the widest name of the first column, as DVC makes it."""
    lines = eight.in_terminal(eight.dvc_path, *shlex.split(command)[1:], columns=WIDTH)
    [head] = [line[:WIDTH] for line in lines if line.split()[:1] == ["Experiment"]]
    ends = {}
    for name in RATES:
        found = re.search(rf"(?<!\S){name}(?!\S)", head)
        assert found, f"{name} is not in {head}"
        ends[name] = found.end()
    assert list(ends) == sorted(ends, key=lambda name: ends[name])
    assert not any("…" in line[:WIDTH] for line in lines)
    for first, rates in {"workspace": OTHERS, "main": RATES, "└──": OTHERS}.items():
        [row] = [line for line in lines if line.split()[:1] == [first]]
        assert {name: float(row[: ends[name]].split()[-1]) for name in RATES} == rates
    assert re.search(r"[0-9a-f]{7} \[[a-z]{5}-[a-z]{4}\]", "\n".join(lines))
