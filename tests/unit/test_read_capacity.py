"""A measured capacity, read back for its picture, and in a sentence."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from litmeter.errors import ReportError
from litmeter.measure.capacity import ProbeRow
from litmeter.paths import CapacityPaths
from litmeter.report.printed import capacity_text
from litmeter.report.snapshot import read_capacity
from litmeter.stats.capacity import BLOCKS, CapacitySearch, Probe, logit
from litmeter.system.files import write_json, write_rows
from tests.support.capacity import CAPACITY

PATHS = CapacityPaths("candidate")


@pytest.fixture(autouse=True)
def _empty_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({}, ("300.0", "290.0 to 310.0", "95%", "100 ms", "90% of the 333.0")),
        ({"status": "unresolved", "reason": "120 s are over"}, ("300.0", "not resolved: 120 s are over")),
        ({"status": "above_range", "capacity_rps": None, "high_rps": None}, ("at least 290.0",)),
        ({"status": "slo_unreachable", "capacity_rps": None}, ("no rate",)),
    ],
)
def test_each_status_has_its_sentence(changes: dict[str, object], parts: tuple[str, ...]) -> None:
    text = capacity_text(replace(CAPACITY, **changes))  # type: ignore[arg-type]
    assert all(part in text for part in parts)


def test_what_is_missing_or_malformed_is_named() -> None:
    with pytest.raises(ReportError, match=r"candidate\.json: No such file or directory; `make capacity`"):
        read_capacity("candidate")
    write_json(PATHS.metrics, {"status": "resolved"})
    with pytest.raises(ReportError, match=r"candidate\.json: malformed"):
        read_capacity("candidate")
    write_json(PATHS.metrics, asdict(CAPACITY))
    with pytest.raises(ReportError, match=r"candidate\.csv: No such file"):
        read_capacity("candidate")


def test_the_curve_is_that_of_the_search() -> None:
    """Though the shares of a probe's parts are not kept, and are others here."""
    rng = np.random.default_rng(1)
    search = CapacitySearch(0.05, 0.04)
    rows = []
    for rate in (80.0, 88.0, 93.0, 95.0, 97.0, 99.0, 101.0):
        share = 1 / (1 + math.exp(-(logit(0.05) + 15 * math.log(rate / 95.0))))
        missed = tuple(float(part) for part in np.clip(share + 0.01 * rng.normal(size=BLOCKS), 0.001, 1))
        probe = Probe(rate, 110.0, missed, 1000)
        search.probes.append(probe)
        own = (rate, rate, 110.0, 1000, probe.share, math.sqrt(probe.variance), rate, 20.0, 70.0, 90.0)
        rows.append(ProbeRow("search", *own, 0, 1.02, ""))
    write_json(PATHS.metrics, asdict(CAPACITY))
    write_rows(PATHS.probes, ProbeRow, rows)
    curve, expected = read_capacity("candidate").curve, search.curve()
    assert curve is not None
    assert expected is not None
    assert curve.load == pytest.approx(expected.load, abs=1e-6)
    assert curve.interval == pytest.approx(expected.interval, abs=1e-6)
