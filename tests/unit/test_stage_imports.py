"""What takes seconds to import is imported only by the stages that need it."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = "import sys, servebench.stages.{}; print(*{{'torch', 'torch._dynamo', 'timm'}} & set(sys.modules))"


@pytest.mark.parametrize(
    ("stage", "imported"),
    [
        *((stage, set()) for stage in ("machine", "compile", "precisions", "benchmark", "comparison")),
        *((stage, set()) for stage in ("report", "capacity", "tune")),
        ("data", {"torch"}),
        ("ceilings", {"torch", "timm"}),
    ],
)
def test_a_stage_imports_torch_its_compiler_and_timm_only_where_it_needs_them(
    stage: str, imported: set[str]
) -> None:
    command = [sys.executable, "-c", PROGRAM.format(stage)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert set(output.split()) == imported
