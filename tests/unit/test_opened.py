"""Which files other programs open, as the kernel says it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from litmeter.cli.opened import Opened, opened_below
from tests.support.processes import limited_inotify

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")


def test_what_a_program_reads_is_found_and_what_it_writes_is_not(tmp_path: Path) -> None:
    names = ("models/a.bin", "models/unread.bin", ".hidden/b", "env/lib/c", "env/pyvenv.cfg", ".d", "log")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("content")
    with opened_below(tmp_path) as opened:
        assert opened() == Opened(set())
        program = "cat models/a.bin .hidden/b env/lib/c .d; ls models; echo >> log; echo > new; cat new"
        subprocess.run(["sh", "-c", program], cwd=tmp_path, check=True, capture_output=True)
        assert opened() == Opened({tmp_path / "models/a.bin"})


def test_of_an_imported_module_it_is_the_source(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (inner := tmp_path / "package/inner.py").touch()
    (outer := tmp_path / "outer.py").write_text("import package.inner")
    for _ in ("compiled", "taken from __pycache__"):
        with opened_below(tmp_path) as opened:
            subprocess.run([sys.executable, "-c", "import outer"], cwd=tmp_path, check=True)
            assert opened() == Opened({outer, inner})


def test_events_that_the_kernel_drops_are_said(tmp_path: Path) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    files = [tmp_path / name for name in ("a", "b")]
    for file in files:
        file.touch()
    with opened_below(tmp_path) as opened:
        for number in range(most + 1):  # equal ones in a row would count once
            files[number % 2].open().close()
        found = opened()
    assert found.files == set(files)
    assert "max_queued_events" in found.missed


@pytest.mark.parametrize(
    ("limit", "most", "missed"),
    [
        ("max_inotify_watches", 2, ["max_user_watches", "d, e, f ("]),
        ("max_inotify_instances", 0, ["max_user_instances"]),
    ],
)
def test_folders_beyond_the_limit_of_watches_are_said(
    tmp_path: Path, limit: str, most: int, missed: list[str]
) -> None:
    for name in "bcdef":
        (tmp_path / name).mkdir()
    program = (
        "from pathlib import Path; from litmeter.cli.opened import opened_below\n"
        "with opened_below(*map(Path, 'bcdef')) as opened: print(opened().missed)"
    )
    command = limited_inotify(limit, most, [sys.executable, "-c", program])
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert [text for text in missed if text not in done.stdout] == []
