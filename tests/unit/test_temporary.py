"""Stale files of dead processes are removed, files in use are kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from litmeter.system import files, temporary
from litmeter.system.files import atomic_folder, atomic_write
from litmeter.system.temporary import TEMPORARY_SUFFIX, claim, remove_stale_files, report_stale_files, scratch

USES_A_FOLDER_AND_WRITES = """
import time
from pathlib import Path
from litmeter.system.temporary import scratch
from litmeter.system.files import atomic_write
with scratch() as folder, atomic_write(Path("metrics/a.json")) as temporary:
    (folder / "log").write_text("half")
    temporary.write_text("half")
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "t").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "t"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(tmp_path)
    yield
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_stale_files_are_removed_once_their_process_is_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-c", USES_A_FOLDER_AND_WRITES]
    half = Path("metrics") / f".a.json{TEMPORARY_SUFFIX}"
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        assert remove_stale_files() == []
        assert (folder / "log").exists()
        assert half.exists()
        process.kill()
    report_stale_files("report")
    assert not folder.exists()
    assert not half.exists()
    said = capsys.readouterr().err
    assert f"{folder}, {half}\n" in said
    assert "lock" in said.partition(str(folder))[0]
    report_stale_files("report")
    assert capsys.readouterr().err == ""


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    others = [tmp_path / "t/litmeter-notebook", tmp_path / "t/.litmeter", tmp_path / "metrics"]
    for folder in others:
        folder.mkdir()
    (tmp_path / "metrics/.a.json.tmp").touch()
    (tmp_path / "t/.litmeter-abcdefgh").symlink_to(tmp_path / "metrics")
    if os.getuid() == 0:  # only root can make a file another user's
        (tmp_path / "t/.litmeter-ijklmnop").mkdir()
        os.chown(tmp_path / "t/.litmeter-ijklmnop", 65534, 65534)
    assert remove_stale_files() == []
    assert (tmp_path / "metrics/.a.json.tmp").exists()


@pytest.mark.parametrize("before", [True, False], ids=["before it is opened", "before it is locked"])
def test_a_folder_that_another_run_took_for_stale_is_replaced(
    before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Path] = []

    def slow_claim(path: Path) -> int:
        if taken:
            return claim(path)
        lock = None if before else os.open(path, os.O_RDONLY)
        taken.extend(remove_stale_files())
        return claim(path) if lock is None else lock

    monkeypatch.setattr(temporary, "claim", slow_claim)
    with scratch() as folder:
        assert folder.is_dir()
        assert len(taken) == 1
        assert taken != [folder]


def test_a_scratch_folder_is_gone_after_its_block() -> None:
    with scratch() as outer:
        with scratch() as inner:
            assert remove_stale_files() == []
        assert not inner.exists()
        assert outer.exists()
    assert not outer.exists()


@pytest.mark.parametrize("context", [scratch(), atomic_write(Path("a.json")), atomic_folder(Path("a"))])
def test_a_signal_while_a_temporary_file_is_made_leaves_nothing(
    context: AbstractContextManager[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def claim_and_be_told_to_end(path: Path) -> int:
        assert path.exists()
        lock = claim(path)
        signal.raise_signal(signal.SIGINT)
        return lock

    for module in (files, temporary):
        monkeypatch.setattr(module, "claim", claim_and_be_told_to_end)
    # A shell has what it runs in the background ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), context:
            pytest.fail("the signal was lost")
    finally:
        signal.signal(signal.SIGINT, before)
    assert [*tmp_path.rglob("*")] == [tmp_path / "t"]


def test_a_file_being_written_is_not_written_by_another() -> None:
    with atomic_write(Path("a.json")) as half:
        half.write_text("first")
        with pytest.raises(BlockingIOError), atomic_write(Path("a.json")):
            pass
    assert Path("a.json").read_text() == "first"
