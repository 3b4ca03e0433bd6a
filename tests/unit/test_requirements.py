"""What two trees need: in which files it is read, and what counts as a difference."""

from __future__ import annotations

from pathlib import Path

import pytest

from litmeter.cli.requirements import changed_requirements
from litmeter.errors import UsageError

PYPROJECT = """
[project]
dependencies = ["numpy>=1.26"]
[project.optional-dependencies]
gpu = ["torch>=2"]
test = ["pytest>=8"]
[tool.poetry.dependencies]
httpx = "^0.27"
"""
FILES = {
    "pyproject.toml": PYPROJECT,
    "requirements.txt": "flask == 3.0  # serves\n\n# of all\n-r base.txt\n",
    "requirements-dev.txt": "ruff\n",
    "requirements/serve.txt": "gunicorn\n",
}


def test_lines_of_all_files_count_but_those_for_developers(tmp_path: Path) -> None:
    (old := tmp_path / "old/requirements").mkdir(parents=True)
    (new := tmp_path / "new").mkdir()
    for name, content in FILES.items():
        (old.parent / name).write_text(content)
    (new / "requirements.txt").write_text("numpy>=2\nflask == 3.0\n")
    assert changed_requirements(old.parent, new) == [
        *("--r base.txt", "-gunicorn", "-httpx = ^0.27", "-numpy>=1.26", "-torch>=2", "+numpy>=2")
    ]
    assert changed_requirements(old.parent, old.parent) == []


@pytest.mark.parametrize(
    ("name", "content"), [("pyproject.toml", b"[project"), ("requirements.txt", b"\xff\xfe")]
)
def test_a_file_that_cannot_be_read_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=name):
        changed_requirements(tmp_path, tmp_path)
