"""Results of configurations that params.yaml has no more."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from litmeter.errors import ReportError
from litmeter.paths import BenchmarkPaths, check_no_orphans

KNOWN = ["e1_baseline", "candidate"]


@pytest.fixture(autouse=True)
def _empty_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_results(name: str) -> None:
    for path in BenchmarkPaths(name).outputs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_all_orphans_are_named_with_the_command_that_removes_them() -> None:
    check_no_orphans(KNOWN)
    for name in KNOWN:
        write_results(name)
    check_no_orphans(KNOWN)
    for name in ("e9_gone", "e8_gone"):
        write_results(name)
    with pytest.raises(ReportError) as caught:
        check_no_orphans(KNOWN)
    problem, found, command = str(caught.value).partition("; remove them: ")
    assert found
    assert problem == "there are results of e8_gone, e9_gone, but params.yaml has only e1_baseline, candidate"
    program, option, *paths = shlex.split(command)
    assert (program, option) == ("rm", "-r")
    assert sorted(paths) == sorted(
        str(path) for name in ("e8_gone", "e9_gone") for path in BenchmarkPaths(name).outputs
    )


def test_half_written_results_are_no_orphans() -> None:
    half = Path("metrics/benchmark/.e9_gone.json.litmeter.tmp")
    half.parent.mkdir(parents=True)
    half.touch()
    check_no_orphans(KNOWN)
