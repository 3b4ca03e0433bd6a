"""Measured capacities in the pages, and how many machines a rate needs."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from litmeter.benchmark.capacity import ESTIMATED, CapacityMetrics, CapacityResult, ProbeRow, Status
from litmeter.errors import ReportError
from litmeter.params import Params, load_params
from litmeter.paths import MACHINE, CapacityPaths
from litmeter.report import capacity as report
from litmeter.report.charts.capacity import capacity as picture
from litmeter.report.charts.png import save
from litmeter.report.printed import capacity_text
from litmeter.stats.capacity import BLOCKS, CapacitySearch, Probe, logit
from litmeter.system.files import write_json, write_rows
from tests.support.capacity import CAPACITY
from tests.support.project import ROOT

FOUND = replace(
    CAPACITY,
    capacity_rps=96.0,
    low_rps=93.0,
    high_rps=99.0,
    share=0.87,
    share_low=0.85,
    share_high=0.89,
    peak_rps=110.0,
)
PROVENANCE = {"machine": "one", "weights_sha256": "abc", "serve": "{}"}


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """The project's own, in an empty folder whose machine, model and configuration are PROVENANCE."""
    loaded = load_params(ROOT / "params.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "provenance", lambda params, name: PROVENANCE)
    write_json(MACHINE, {"id": "one"})
    return loaded


def keep(metrics: CapacityMetrics, **provenance: str) -> None:
    write_json(CapacityPaths("candidate").metrics, asdict(metrics) | PROVENANCE | provenance)


def test_a_capacity_is_a_sentence_with_the_machines_that_a_rate_needs(params: Params) -> None:
    keep(FOUND)
    metrics = report.read_capacity(params, "candidate")
    assert metrics == FOUND
    assert report.capacity_sentence("candidate", metrics, 1000.0) == (
        "candidate takes 96.0 requests a second (93.0 to 99.0) with 95% of them within 100 ms, 87% of the "
        "110.0 that a closed loop reached meanwhile; 1,000 a second need 12 such machines, 1 of them spare."
    )


@pytest.mark.parametrize(
    ("rate_rps", "machines"), [(1.0, 2), (93.0, 2), (93.1, 3), (930.0, 11), (1000.0, 12)]
)
def test_machines_are_counted_by_the_lower_limit_with_one_spare(rate_rps: float, machines: int) -> None:
    assert report.machines_needed(FOUND, rate_rps) == machines


def test_what_is_not_resolved_needs_machines_by_its_lower_limit() -> None:
    unresolved = replace(FOUND, status="unresolved", low_rps=50.0, reason="the search ended after 120 s")
    assert report.machines_needed(unresolved, 100.0) == 3
    assert report.capacity_sentence("e1", unresolved).endswith(
        "meanwhile; not resolved: the search ended after 120 s; 1,000 a second need 21 such machines, 1 of "
        "them spare."
    )


def test_what_is_not_known_needs_no_number_of_machines() -> None:
    nothing = {"capacity_rps": None, "low_rps": None, "high_rps": None, "share": None}
    unknown = replace(FOUND, status="unresolved", reason="the search ended after 120 s", **nothing)
    assert report.machines_needed(unknown, 100.0) is None
    assert report.capacity_sentence("e1", unknown).endswith("not resolved: the search ended after 120 s.")


@pytest.mark.parametrize("status", get_args(Status))
def test_each_status_says_what_is_known(status: Status) -> None:
    known = status in ESTIMATED
    found = replace(
        FOUND,
        status=status,
        reason="because",
        confirmed=False,
        capacity_rps=FOUND.capacity_rps if known else None,
    )
    text = capacity_text(found)
    assert ("because" in text) is (status != "resolved")
    assert ("96.0 requests a second" in text) is known
    assert ("93.0" in text) is (known or status == "above_range")


def test_a_capacity_of_something_else_is_not_used(params: Params) -> None:
    with pytest.raises(ReportError, match=r"candidate\.json: No such file or directory; `make capacity`"):
        report.read_capacity(params, "candidate")
    keep(FOUND, machine="two")
    with pytest.raises(ReportError, match="measured for another machine, model, configuration or objective"):
        report.read_capacity(params, "candidate")
    keep(replace(FOUND, slo_ms=50.0))
    with pytest.raises(ReportError, match="or objective"):
        report.read_capacity(params, "candidate")
    write_json(CapacityPaths("candidate").metrics, {"status": "resolved"})
    with pytest.raises(ReportError, match="malformed"):
        report.read_capacity(params, "candidate")


def test_a_picture_is_drawn_of_any_search(tmp_path: Path) -> None:
    probe = ProbeRow("search", 80.0, 79.0, 110.0, 1000, 0.02, 0.005, 77.0, 20.0, 70.0, 90.0, 0, 1.02, "")
    for rows in ([], [probe], [probe, replace(probe, rate_rps=99.0, missed=0.3, p99_ms=None)]):
        for metrics in (FOUND, replace(FOUND, capacity_rps=None, low_rps=None, high_rps=None, peak_rps=None)):
            save(tmp_path / "picture.png", picture("candidate", CapacityResult(metrics, rows, None)))
            assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_the_curve_is_that_of_the_search(params: Params) -> None:
    """Though the shares of a probe's parts are not kept, and are others here."""
    rng = np.random.default_rng(1)
    search = CapacitySearch(0.05, 0.04)
    rows = []
    for rate in (80.0, 88.0, 93.0, 95.0, 97.0, 99.0, 101.0):
        share = 1 / (1 + math.exp(-(logit(0.05) + 15 * math.log(rate / 95.0))))
        missed = tuple(float(part) for part in np.clip(share + 0.01 * rng.normal(size=BLOCKS), 0.001, 1))
        probe = Probe(rate, 110.0, missed, 1000)
        search.probes.append(probe)
        error = math.sqrt(probe.variance)
        rows.append(
            ProbeRow(
                "search", rate, rate, 110.0, 1000, probe.share, error, rate, 20.0, 70.0, 90.0, 0, 1.02, ""
            )
        )
    keep(FOUND)
    write_rows(CapacityPaths("candidate").probes, ProbeRow, rows)
    curve, own = report.read_capacity_result(params, "candidate").curve, search.curve()
    assert curve is not None
    assert own is not None
    assert curve.load == pytest.approx(own.load, abs=1e-6)
    assert curve.interval == pytest.approx(own.interval, abs=1e-6)
