"""What takes seconds to import is imported only by the stages that need it."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import importlib, sys
for stage in sys.argv[1:]:
    importlib.import_module(f"litmeter.stages.{stage}")
    print(stage, *sorted({"torch", "torch._dynamo", "timm"} & set(sys.modules)))
"""
WITHOUT_TORCH = ("machine", "compile", "precisions", "benchmark", "comparison", "report", "capacity", "tune")


def test_stages_import_torch_its_compiler_and_timm_only_where_they_need_them() -> None:
    """One after another in one process, so that none has imported what the next one may not."""
    command = [sys.executable, "-c", PROGRAM, *WITHOUT_TORCH, "data", "ceilings"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.splitlines() == [*WITHOUT_TORCH, "data torch", "ceilings timm torch"]
