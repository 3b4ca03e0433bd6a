"""What the dead have left is removed, what the living use is not."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from servebench import leftovers, results
from servebench.system.files import atomic_folder, atomic_write
from servebench.system.temporary import STALE_SUFFIX, claim, remove_stale_files, scratch, sweep

USES_A_FOLDER_AND_WRITES = """
import time
from pathlib import Path
from servebench.system.temporary import scratch
from servebench.system.files import atomic_write
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


def test_a_living_process_keeps_its_files_and_a_killed_one_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-c", USES_A_FOLDER_AND_WRITES]
    half = Path("metrics") / f".a.json{STALE_SUFFIX}"
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        assert sweep() == []
        assert (folder / "log").exists()
        assert half.exists()
        process.kill()
    remove_stale_files("report")
    assert not folder.exists()
    assert not half.exists()
    assert capsys.readouterr().err == f"report: removed what a killed run has left: {folder}, {half}\n"
    remove_stale_files("report")
    assert capsys.readouterr().err == ""


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    others = [tmp_path / "t/servebench-notebook", tmp_path / "t/.servebench", tmp_path / "metrics"]
    for folder in others:
        folder.mkdir()
    (tmp_path / "metrics/.a.json.tmp").touch()
    (tmp_path / "t/.servebench-abcdefgh").symlink_to(tmp_path / "metrics")
    assert sweep() == []
    assert (tmp_path / "metrics/.a.json.tmp").exists()


def test_a_folder_is_gone_after_its_use_and_used_ones_stay() -> None:
    with scratch() as outer:
        with scratch() as inner:
            assert sweep() == []
        assert not inner.exists()
        assert outer.exists()
    assert not outer.exists()


@pytest.mark.parametrize("temporary", [scratch(), atomic_write(Path("a.json")), atomic_folder(Path("a"))])
def test_told_to_end_while_it_makes_something_temporary_a_process_leaves_nothing(
    temporary: AbstractContextManager[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def claim_and_be_told_to_end(path: Path) -> int:
        assert path.exists()
        lock = claim(path)
        signal.raise_signal(signal.SIGINT)
        return lock

    for module in (leftovers, results):
        monkeypatch.setattr(module, "claim", claim_and_be_told_to_end)
    # A shell has what it runs in the background ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), temporary:
            pytest.fail("the signal was lost")
    finally:
        signal.signal(signal.SIGINT, before)
    assert [*tmp_path.rglob("*")] == [tmp_path / "t"]


def test_a_file_that_is_being_written_is_not_written_by_another() -> None:
    with atomic_write(Path("a.json")) as temporary:
        temporary.write_text("first")
        with pytest.raises(BlockingIOError), atomic_write(Path("a.json")):
            pass
    assert Path("a.json").read_text() == "first"
