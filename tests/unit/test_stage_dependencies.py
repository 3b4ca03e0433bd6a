"""Each dvc.yaml names, for each stage, the code that its figures depend on: neither less nor more."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml

from tests.support.project import ROOT

PIPELINES = [ROOT / "dvc.yaml", ROOT / "ondemand/dvc.yaml"]
STAGES: dict[str, dict[str, Any]] = {
    name: stage.get("do", stage)
    for path in PIPELINES
    for name, stage in yaml.safe_load(path.read_text())["stages"].items()
}
NO_FIGURES = {"system", "errors", "params", "paths", "cli", "report"}
"""They check, write, print and draw what others measure. Only the stage `report` depends on `report`."""
MOST = 2 / 3
"""Of a folder's modules: a stage that imports so many depends on the folder."""
STARTED = re.compile(r'"(litmeter(?:\.\w+)+)"')
"""A module's name as text: one that is started as a process of its own, by ``python -m``."""


@cache
def imports() -> dict[str, set[str]]:
    """Each module with those that it imports, or starts as a process."""
    graph = grimp.build_graph("litmeter", cache_dir=None)
    found = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    for module in found:
        for started in STARTED.findall(source_of(module).read_text()):
            found[module] |= {started, f"{started}.__main__"} & graph.modules
    return found


def source_of(module: str) -> Path:
    path = ROOT / "src" / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def figure_modules(stage: str) -> set[Path]:
    """The files of all that the stage's module imports, directly or not, and that figures depend on."""
    left_out = NO_FIGURES - {stage}
    pending, seen = [f"litmeter.stages.{stage}"], set()
    while pending:
        module = pending.pop()
        if module not in seen and module != "litmeter" and module.split(".")[1] not in left_out:
            seen.add(module)
            pending += imports()[module]
    files = {source_of(module).relative_to(ROOT) for module in seen}
    return {file for file in files if file.name != "__init__.py"}


def declared_as(file: Path, files: set[Path]) -> Path:
    """The outermost folder of ``file`` that has MOST of its modules in ``files``, or itself."""
    package = ROOT / "src/litmeter"
    folders = [folder for folder in (ROOT / file).parents if folder.is_relative_to(package / file.parts[2])]
    for folder in reversed(folders):
        inside = {path.relative_to(ROOT) for path in folder.rglob("*.py") if path.name != "__init__.py"}
        if folder.name != "stages" and len(inside & files) >= MOST * len(inside):
            return folder.relative_to(ROOT)
    return file


@pytest.mark.parametrize("name", STAGES)
def test_deps_are_what_the_figures_depend_on(name: str) -> None:
    if name == "machine":
        return  # runs always
    module = STAGES[name]["cmd"].split()[2]
    declared = {path for path in STAGES[name]["deps"] if path.startswith("src/")}
    files = figure_modules(module)
    assert declared == {str(declared_as(file, files)) for file in files}


def test_every_stage_module_is_a_stage_of_the_pipeline() -> None:
    paths = (ROOT / "src/litmeter/stages").glob("[!_]*.py")
    modules = {path.stem for path in paths if "\ndef main(" in path.read_text()}
    assert modules == {stage["cmd"].split()[2] for stage in STAGES.values()}
