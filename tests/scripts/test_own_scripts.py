"""LitServe's own scripts, of its source distribution, are measured without an edit."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from litmeter.measure.rows import TurnRow
from litmeter.system.files import read_rows
from tests.support.project import ROOT

CHAT = {"model": "lit", "messages": [{"role": "user", "content": "Hi"}]}
EMBED = {"model": "lit", "input": "a text"}
[PUG, *_] = sorted((ROOT / "data/sample").glob("*/images/*.jpg"))
BODIES: Mapping[str, Mapping[str, Any]] = {
    "e2e/default_api.py": {"input": 4.0},
    "e2e/default_async_streaming.py": {"input": 4.0},
    "e2e/default_batched_streaming.py": {"input": 4.0},
    "e2e/default_batching.py": {"input": 4.0},
    "e2e/default_openai_embedding_spec.py": EMBED,
    "e2e/default_openai_with_batching.py": CHAT,
    "e2e/default_openaispec.py": CHAT,
    "e2e/default_openaispec_response_format.py": CHAT,
    "e2e/default_openaispec_tools.py": CHAT,
    "e2e/default_single_streaming.py": {"input": 4.0},
    "e2e/default_spec.py": CHAT,
    "e2e/openai_embedding_with_batching.py": EMBED,
    "parity_fastapi/ls-server.py": {"image_data": base64.b64encode(PUG.read_bytes()).decode()},
}
"""By script, a request; default_mcp.py, fastapi-server.py and those in perf_test want other packages."""


@pytest.fixture(scope="session")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder ``tests`` of the source distribution of this LitServe."""
    folder, name = tmp_path_factory.mktemp("sdist"), f"litserve-{version('litserve')}"
    words = [*["download", "--quiet", "--no-deps", "--no-binary", "litserve", "--dest"], str(folder)]
    subprocess.run([sys.executable, "-m", "pip", *words, name.replace("-", "==")], check=True)
    with tarfile.open(folder / f"{name}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / name / "tests"


@pytest.mark.parametrize("script", BODIES)
def test_it_is_measured(script: str, scripts: Path, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(BODIES[script]))
    words = ["--body", "a.json", "--users", "2", "--requests", "10", "--seconds", "3", "--out", "table.csv"]
    command = [sys.executable, "-m", "litmeter.cli.main", "loadtest", str(scripts / script), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (tmp_path / "table.csv").exists(), done.stderr
    [row] = read_rows(tmp_path / "table.csv", TurnRow)
    assert row.sent > row.failed + row.timed_out == 0, done.stdout
