"""The committed results, whichever configurations they are of."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from litmeter.paths import README, RESULTS_PAGE
from litmeter.report.html.revisions import READ
from litmeter.report.results_page import write_results
from litmeter.system.files import read_json
from tests.support.project import ROOT


def test_metrics_are_flat_and_have_the_same_keys() -> None:
    for folder in ("benchmark", "comparison"):
        found = [read_json(path) for path in sorted((ROOT / "metrics" / folder).glob("*.json"))]
        assert found
        assert {tuple(own) for own in found} == {tuple(found[0])}
        assert not any(isinstance(value, dict | list) for own in found for value in own.values())


def test_the_documents_show_what_the_metrics_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the last commit, as a fresh clone has it: without a model."""
    documents = (README, RESULTS_PAGE)
    command = ["git", "archive", "HEAD", *READ, *map(str, documents)]
    archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    subprocess.run(["tar", "-x"], cwd=tmp_path, input=archive.stdout, check=True)
    monkeypatch.chdir(tmp_path)
    before = [document.read_text() for document in documents]
    write_results()
    assert [document.read_text() for document in documents] == before
