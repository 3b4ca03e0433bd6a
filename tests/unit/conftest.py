"""Results that several modules look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from litmeter.report.snapshot import Snapshot, read_snapshot
from tests.support.results_project import write_project


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Snapshot:
    monkeypatch.chdir(tmp_path)
    write_project()
    return read_snapshot()
