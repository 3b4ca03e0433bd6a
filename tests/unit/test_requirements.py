"""What two trees need: in which files it is read, and what counts as a difference."""

from __future__ import annotations

from pathlib import Path

import pytest

from litmeter.cli.requirements import changed_requirements, requirements_of
from litmeter.errors import UsageError

PYPROJECT = """
[project]
dependencies = ["numpy>=1.26", "Py_YAML"]
[project.optional-dependencies]
gpu = ["torch>=2"]
test = ["pytest>=8"]
[tool.poetry.dependencies]
httpx = "^0.27"
"""
FILES = {
    "pyproject.toml": PYPROJECT,
    "requirements.txt": "flask == 3.0  # serves\n-r base.txt\n\nuvicorn[standard]>=0.3 --hash=sha256:ab\n",
    "requirements-dev.txt": "ruff\n",
    "requirements/serve.txt": "gunicorn\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "old/requirements").mkdir(parents=True)
    for name, content in FILES.items():
        (tmp_path / "old" / name).write_text(content)
    return tmp_path / "old"


def test_all_files_count_but_those_for_developers(tree: Path) -> None:
    assert requirements_of(tree) == {
        **{"numpy": ">=1.26", "py-yaml": "any version", "torch": ">=2", "httpx = ^0.27": "given"},
        **{"flask": "==3.0", "-r base.txt": "given", "uvicorn": "[standard]>=0.3", "gunicorn": "any version"},
    }


def test_added_removed_and_other_versions_are_named(tree: Path, tmp_path: Path) -> None:
    (new := tmp_path / "new").mkdir()
    (new / "pyproject.toml").write_text('[project]\ndependencies = ["PyYAML", "numpy >= 2", "rich"]\n')
    (old := tmp_path / "before").mkdir()
    (old / "requirements.txt").write_text("pyyaml\nnumpy>=1.26\nflask\n")
    assert changed_requirements(old, new) == [
        "flask: any version -> not needed",
        "numpy: >=1.26 -> >=2",
        "rich: not needed -> any version",
    ]
    assert changed_requirements(tree, tree) == []


@pytest.mark.parametrize(
    ("name", "content"), [("pyproject.toml", b"[project"), ("requirements.txt", b"\xff\xfe")]
)
def test_a_file_that_cannot_be_read_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=name):
        requirements_of(tmp_path)
