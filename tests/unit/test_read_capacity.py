"""A measured capacity, read back for its picture, and in a sentence."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from litmeter.errors import ReportError
from litmeter.measure.capacity import CapacityResult, capacity
from litmeter.measure.rows import TurnRow
from litmeter.paths import CAPACITY_PICTURE, CapacityPaths
from litmeter.report import charts
from litmeter.report.charts import save_png
from litmeter.report.snapshot import read_capacity
from litmeter.report.tables import capacity_text
from litmeter.system.files import write_json, write_rows
from tests.support.capacity import CAPACITY, OBJECTIVE, probe
from tests.support.queues import QUEUES, drive

PATHS = CapacityPaths("candidate")
NONE = {"capacity_rps": None, "low_rps": None, "high_rps": None}


@pytest.fixture(autouse=True)
def _empty_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({}, ("290 to 310", "95%", "100 ms")),
        ({"status": "unresolved", "reason": "wide"}, ("300", "290 to 310", "wide")),
        ({"status": "unresolved", "low_rps": None, "high_rps": None, "reason": "few"}, ("about 300", "few")),
        ({**NONE, "status": "unresolved", "reason": "too few"}, ("unknown", "too few")),
        ({"status": "above_range", "capacity_rps": None, "high_rps": None}, ("at least 290",)),
        ({**NONE, "status": "slo_unreachable"}, ("no rate",)),
    ],
)
def test_each_status_has_its_sentence(changes: dict[str, object], parts: tuple[str, ...]) -> None:
    text = capacity_text(replace(CAPACITY, **changes))  # type: ignore[arg-type]
    assert all(part in text for part in parts)


def test_what_is_missing_or_malformed_is_named() -> None:
    with pytest.raises(ReportError, match=r"candidate\.json: No such file or directory; `make capacity`"):
        read_capacity("candidate")
    write_json(PATHS.metrics, {"status": "resolved"})
    with pytest.raises(ReportError, match=r"candidate\.json: not of this code"):
        read_capacity("candidate")
    write_json(PATHS.metrics, asdict(CAPACITY))
    with pytest.raises(ReportError, match=r"candidate\.csv: No such file"):
        read_capacity("candidate")


def test_the_result_is_read_as_it_was_measured() -> None:
    objective = OBJECTIVE.model_copy(update={"max_s": 60.0})
    found = drive(capacity(["candidate"], objective, 10.0), {"candidate": QUEUES[3]})[0]["candidate"]
    write_json(PATHS.metrics, asdict(found.metrics))
    write_rows(PATHS.probes, TurnRow, found.rows)
    assert read_capacity("candidate") == found
    assert found.curve is not None


def test_a_picture_is_drawn_of_any_search() -> None:
    unknown = replace(CAPACITY, capacity_rps=None, low_rps=None, high_rps=None)
    few = probe(79.0, 0.02, p99_ms=None)
    for rows, metrics in (
        ([], unknown),
        ([few], CAPACITY),
        ([few, replace(few, void="late")], unknown),
    ):
        save_png(CAPACITY_PICTURE, charts.capacity({"candidate": CapacityResult(metrics, rows, None)}))
        assert CAPACITY_PICTURE.stat().st_size > 5000
