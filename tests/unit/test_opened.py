"""Which files other programs open, as the kernel says it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from litmeter.system.opened import opened_below

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")


def test_what_a_program_reads_is_found_and_what_it_writes_is_not(tmp_path: Path) -> None:
    names = ("models/a.bin", "models/unread.bin", ".hidden/b", "env/lib/c", "env/pyvenv.cfg", ".d", "log")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("content")
    with opened_below(tmp_path) as opened:
        assert opened() == set()
        program = "cat models/a.bin .hidden/b env/lib/c .d; ls models; echo >> log; echo > new; cat new"
        subprocess.run(["sh", "-c", program], cwd=tmp_path, check=True, capture_output=True)
        assert opened() == {tmp_path / "models/a.bin"}


def test_of_an_imported_module_it_is_the_source(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package/inner.py").write_text("")
    (tmp_path / "outer.py").write_text("import package.inner")
    found = {tmp_path / "outer.py", tmp_path / "package/inner.py"}
    for _ in ("compiled", "taken from __pycache__"):
        with opened_below(tmp_path) as opened:
            subprocess.run([sys.executable, "-c", "import outer"], cwd=tmp_path, check=True)
            assert opened() == found
