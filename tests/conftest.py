"""Fixtures of all tests."""

from __future__ import annotations

import gc
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from litmeter.paths import INDEX, ModelFolders
from litmeter.system.files import write_json
from litmeter.system.temporary import remove_stale_files
from tests.support.project import PHOTOS

LONG_S = 5.0


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The seconds of each file, fixtures included, from the slowest down to LONG_S."""
    seconds: dict[str, float] = defaultdict(float)
    for report in [one for reports in terminalreporter.stats.values() for one in reports]:
        if isinstance(report, pytest.TestReport):
            seconds[report.nodeid.partition("::")[0]] += report.duration
    slow = sorted((-own, name) for name, own in seconds.items() if own >= LONG_S)
    terminalreporter.section("seconds per file")
    for own, name in slow:
        terminalreporter.line(f"{-own:6.0f}  {name}")


@pytest.fixture(scope="session", autouse=True)
def own_temporary_folder() -> Iterator[None]:
    """What a killed run has left is removed by the next command, with a line that is none of a test's own.

    The machine's lock is there, too: tests side by side do not wait for each other.
    """
    with (
        tempfile.TemporaryDirectory(prefix="own", ignore_cleanup_errors=True) as folder,  # short, for sockets
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TMPDIR", folder)
        for name in ("http_proxy", "https_proxy", "all_proxy"):  # the tests' own requests go straight, too
            patch.delenv(name, raising=False)
            patch.delenv(name.upper(), raising=False)
        patch.setenv("COLUMNS", "120")  # lines are as long in any terminal
        patch.setattr(tempfile, "tempdir", None)
        patch.setenv("XDG_STATE_HOME", folder)
        yield


@pytest.fixture(scope="module", autouse=True)
def nothing_stale(own_temporary_folder: None) -> None:
    """Without what killed runs of the test files before have left."""
    remove_stale_files()


@pytest.fixture(scope="module", autouse=True)
def nothing_frozen() -> Iterator[None]:
    """What a worker of ours freezes, Hypothesis cannot find, and takes its own generator for garbage."""
    yield
    gc.unfreeze()


@pytest.fixture
def one_cpu() -> Iterator[None]:
    """This test and what it starts may use one CPU."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    yield
    os.sched_setaffinity(0, allowed)


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """A dozen of the project's own photographs."""
    return sorted(PHOTOS.glob("*.jpg"))[::31]


@pytest.fixture
def indexed(tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, the current one, with these photographs in its index."""
    from litmeter.classifier.data.index import Index, Photo

    monkeypatch.chdir(tmp_path)
    listed = [Photo(path=str(path), label=0, split="test", sha256="") for path in photos]
    write_json(INDEX, Index(classes=["a", "b"], photos=listed).model_dump())
    return tmp_path


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> ModelFolders:
    """A tiny model, exported but not compiled."""
    from tests.support.models import export_tiny  # timm takes seconds to import

    return export_tiny(tmp_path_factory.mktemp("models"))
