"""The same logs give the same ratios, ranks, capacities and winners, and the same results the same causes.

Whatever code has been moved since they were recorded; last digits differ with the release of numpy.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from litmeter.report.snapshot import read_snapshot
from tests.support.recorded import SCHEDULES, assert_same, recordings, replayed, said_of

RUNS = sorted((Path(__file__).parent.parent / "fixtures/runs").glob("*.tar.xz"))


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name.partition(".")[0])
def test_a_recorded_run_gives_the_same_figures(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(run) as archive:
        archive.extractall(tmp_path, filter="data")
    for recording in recordings(tmp_path):
        assert_same(replayed(recording), recording.outcome, recording.schedule)
    if (said := tmp_path / "report.json").exists():  # a check makes none
        monkeypatch.chdir(tmp_path / "results")
        assert_same(said_of(read_snapshot()), json.loads(said.read_text()), "report")


def test_there_are_runs_of_each_schedule(tmp_path: Path) -> None:
    names = set()
    for run in RUNS:
        with tarfile.open(run) as archive:
            names |= {name.partition("-")[2].partition(".")[0] for name in archive.getnames() if "-" in name}
    assert names == set(SCHEDULES)
