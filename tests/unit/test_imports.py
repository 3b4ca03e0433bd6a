"""What is imported is declared, and what takes seconds to import is imported only where it is needed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import grimp

from litmeter.errors import EXTRAS
from litmeter.system.machine import packages_by_module

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]


def normal(name: str) -> str:
    """A distribution's name as PyPI compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED = {
    extra: {normal(re.split(r"[\[<>=~! ]", line)[0]) for line in lines}
    for extra, lines in [("", PROJECT["dependencies"]), *PROJECT["optional-dependencies"].items()]
    if extra not in ("test", "audit")
}
"""Distributions by the extra that brings them."""


def test_what_is_imported_is_declared() -> None:
    declared = set().union(*DECLARED.values())
    graph = grimp.build_graph("litmeter", include_external_packages=True, cache_dir=None)
    external = {m for m in graph.modules if graph.is_module_squashed(m)} - sys.stdlib_module_names
    external -= {"tomllib"}  # of Python 3.11; tomli before
    distributions = packages_by_module()
    undeclared = {
        module
        for module in external
        if not {normal(d) for d in distributions.get(module, [module])} & declared
    }
    assert undeclared == set()


def test_the_extra_of_a_missing_module_is_the_one_that_brings_it() -> None:
    distributions = packages_by_module()
    brought = {
        module: extra
        for module, names in distributions.items()
        for extra, declared in DECLARED.items()
        if extra and {normal(name) for name in names} & declared and not module.startswith("_")
    }
    assert {module: brought[module] for module in EXTRAS} == EXTRAS


PROGRAM = """
import importlib, sys
for stage in sys.argv[1:]:
    importlib.import_module(f"litmeter.stages.{stage}")
    print(stage, *sorted({"torch", "torch._dynamo", "timm"} & set(sys.modules)))
"""
WITHOUT_TORCH = (
    *("machine", "compile", "packages", "precisions", "benchmark", "comparison", "report"),
    *("capacity", "tune"),
)


def test_stages_import_torch_its_compiler_and_timm_only_where_they_need_them() -> None:
    """One after another in one process, so that none has imported what the next one may not."""
    command = [sys.executable, "-c", PROGRAM, *WITHOUT_TORCH, "data", "ceilings"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.splitlines() == [*WITHOUT_TORCH, "data torch", "ceilings timm torch"]
