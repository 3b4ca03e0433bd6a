"""Stages that leave the model to other processes do not import torch, which takes seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = "import sys, servebench.stages.{}; print({{'torch', 'timm'}} & set(sys.modules))"


@pytest.mark.parametrize("stage", ["machine", "compile", "precisions", "benchmark", "comparison", "report"])
def test_a_stage_that_starts_others_does_without_torch(stage: str) -> None:
    command = [sys.executable, "-c", PROGRAM.format(stage)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "set()\n"
