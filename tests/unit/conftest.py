"""Results that several modules look at."""

from __future__ import annotations

import pytest

from litmeter.report.snapshot import Snapshot, read_snapshot
from tests.support.results_project import write_project


@pytest.fixture(scope="session")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("project"))
        write_project()
        return read_snapshot()
