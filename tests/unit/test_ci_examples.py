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


@pytest.mark.parametrize("name", SCHEMAS)
def test_workflows_are_valid_and_their_commands_are_ours(name: str, tmp_path: Path) -> None:
    content = (ROOT / "docs/ci" / name).read_text()
    words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", *SCHEMAS[name]]
    subprocess.run([*words, str(ROOT / "docs/ci" / name)], check=True)
    (wrong := tmp_path / name).write_text(content.replace("timeout", "time_out"))
    assert subprocess.run([*words, str(wrong)], capture_output=True).returncode != 0
    text = " ".join(content.replace("\\\n", " ").split())
    [command] = re.findall(r"litmeter (check --.*? --markdown \S+)", text)
    function, bound, _ = app.parse_args(shlex.split(command), **QUIET)
    assert function.__name__ == "check"
    assert bound.arguments["seconds"] == 180.0
    assert bound.arguments["command"] == "server.py"  # that of docs/check.md, whose port is fixed
    assert [str(path) for path in bound.arguments["sent"].body] == ["request.json"]
