"""The same logs give the same ratios, ranks, capacities and winners, and the same results the same causes.

To the last digit, whatever code has been moved since they were recorded.
"""

from __future__ import annotations

import json
import platform
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

from litmeter.report.snapshot import read_snapshot
from tests.support.recorded import recordings, replayed, said_of

RUNS = sorted((Path(__file__).parent.parent / "fixtures/runs").glob("*.tar.xz"))


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name.partition(".")[0])
def test_a_recorded_run_gives_the_same_figures(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(run) as archive:
        archive.extractall(tmp_path, filter="data")
    machine = json.loads((tmp_path / "results/metrics/machine.json").read_text())
    here = {"python": platform.python_version(), **{name: version(name) for name in ("numpy", "scipy")}}
    if other := [name for name, own in here.items() if machine[name] != own]:
        pytest.skip(f"recorded with another {' and '.join(other)}, whose last digits may differ")
    for recording in recordings(tmp_path):
        assert replayed(recording) == recording.outcome, recording.schedule
    monkeypatch.chdir(tmp_path / "results")
    assert said_of(read_snapshot()) == json.loads((tmp_path / "report.json").read_text())


def test_there_are_runs_of_each_kind_of_server_and_of_each_schedule() -> None:
    assert {run.name.partition(".")[0] for run in RUNS} >= {
        *("classifier", "avx2", "lit_api", "command", "searches")
    }
