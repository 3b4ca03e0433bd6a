"""The committed results, whichever configurations they are of."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from litmeter.measure.comparison_rows import read_comparison
from litmeter.paths import RESULTS_PAGE
from litmeter.report.pages import write_results
from litmeter.report.snapshot import OF_A_REVISION, read_snapshot
from litmeter.say.tables import significant
from litmeter.system.files import read_json
from tests.support.project import ROOT


def test_metrics_are_flat_and_have_the_same_keys() -> None:
    found = [read_json(path) for path in sorted((ROOT / "metrics/benchmark").glob("*.json"))]
    assert found
    assert {tuple(own) for own in found} == {tuple(found[0])}
    assert not any(isinstance(value, dict | list) for own in found for value in own.values())


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the results of the last commit, as a fresh clone has them: without a model."""
    command = ["git", "archive", "HEAD", *OF_A_REVISION]
    archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    subprocess.run(["tar", "-x"], cwd=tmp_path, input=archive.stdout, check=True)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("committed")
def test_the_results_are_written_without_a_model() -> None:
    write_results()
    page = RESULTS_PAGE.read_text()
    for row in read_comparison().rows:
        assert re.search(
            rf"\| `{row.experiment}` \| [^|]* \| {re.escape(significant(row.rate_rps))} \|", page
        )


@pytest.mark.usefixtures("committed")
def test_no_figure_lies_above_its_bound_by_more_than_their_intervals() -> None:
    bounds = read_snapshot().bounds
    assert [(name, bound) for name, own in bounds.items() for bound in own if bound.is_error] == []
