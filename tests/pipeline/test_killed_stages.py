"""Stages that train, export, compile or search leave the last results where they are killed at work."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from litmeter.system.temporary import TEMPORARY_SUFFIX
from tests.pipeline.conftest import Clone, results_of

STAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "train": ("epoch 2/", {"train": {"epochs": 1000}}),
    "export": ("(export)", {}),
    "compile": ("(compile)", {"compile": {"batch_sizes": [1, 2]}}),
    "ondemand/dvc.yaml:capacity": ("probe at", {"objective": {"max_s": 120.0}}),
}
"""What each says when it is at work, and what makes it run."""


@pytest.fixture
def restored(ran: Clone) -> Iterator[Clone]:
    yield ran
    ran.restore()


@pytest.mark.parametrize("told", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("stage", STAGES)
def test_the_last_results_are_left_and_nobody_stays(
    restored: Clone, stage: str, told: signal.Signals
) -> None:
    said, changes = STAGES[stage]
    restored.change(changes)
    results = results_of(restored)
    process = restored.start(restored.dvc_path, "repro", "--force", "--single-item", stage)
    try:
        restored.wait_for(said, process)
        os.killpg(process.pid, told)
        output, _ = process.communicate()
        restored.wait_until_alone()
    finally:
        restored.end(process)
    assert process.returncode != 0
    assert "Traceback" not in output
    assert results_of(restored) == results
    half_written = [path for path in restored.path.rglob(f"*{TEMPORARY_SUFFIX}") if ".venv" not in path.parts]
    assert told == signal.SIGKILL or half_written == []
    if changes and "/" not in stage:
        assert stage in restored.status()
