"""pyproject.toml declares every package that the code imports."""

from __future__ import annotations

import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import grimp

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]


def normal(name: str) -> str:
    """A distribution's name as PyPI compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_what_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {normal(re.split(r"[\[<>=~! ]", line)[0]) for line in project["dependencies"]}
    graph = grimp.build_graph("litmeter", include_external_packages=True, cache_dir=None)
    external = {m for m in graph.modules if graph.is_module_squashed(m)} - sys.stdlib_module_names
    distributions = packages_distributions()
    undeclared = {module for module in external if not {normal(d) for d in distributions[module]} & declared}
    assert undeclared == set()
