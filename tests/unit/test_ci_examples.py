"""The workflow files of docs/check.md: valid for their services, with options that the command has."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from litmeter.cli.main import QUIET, app
from tests.support.project import ROOT

SCHEMAS = {
    "github-actions.yml": ["vendor.github-workflows"],
    "gitlab-ci.yml": ["vendor.gitlab-ci", "--data-transform", "gitlab-ci"],
}


def validated(path: Path) -> subprocess.CompletedProcess[str]:
    words = ["--builtin-schema", *SCHEMAS[path.name], str(path)]
    return subprocess.run([sys.executable, "-m", "check_jsonschema", *words], capture_output=True, text=True)


@pytest.mark.parametrize("name", SCHEMAS)
def test_workflows_are_valid(name: str, tmp_path: Path) -> None:
    content = (ROOT / "docs/ci" / name).read_text()
    done = validated(ROOT / "docs/ci" / name)
    assert done.returncode == 0, done.stdout
    (tmp_path / name).write_text(content.replace("timeout", "time_out"))
    assert validated(tmp_path / name).returncode != 0


@pytest.mark.parametrize("name", SCHEMAS)
def test_their_commands_are_ours(name: str) -> None:
    text = " ".join((ROOT / "docs/ci" / name).read_text().replace("\\\n", " ").split())
    [command] = re.findall(r"litmeter (check --.*? --markdown \S+)", text)
    function, bound, _ = app.parse_args(shlex.split(command), **QUIET)
    assert function.__name__ == "check"
    assert bound.arguments["seconds"] == 180.0
    assert "{port}" in bound.arguments["command"]
    assert [str(path) for path in bound.arguments["sent"].body] == ["request.json"]
