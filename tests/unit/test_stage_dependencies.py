"""Each dvc.yaml names, for each stage, the code that the stage imports: neither less nor more."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import grimp
import pytest
import yaml

from litmeter.paths import DVC_FILE, ON_DEMAND_DVC_FILE

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path("src/litmeter")
PIPELINES = [yaml.safe_load((ROOT / path).read_text())["stages"] for path in (DVC_FILE, ON_DEMAND_DVC_FILE)]
STAGES: dict[str, dict[str, list[str]]] = {name: stage for one in PIPELINES for name, stage in one.items()}
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


def rooms_of(stage: str) -> set[str]:
    """All that the stage's module imports, directly or not: itself, folders, and modules beside them."""
    pending, seen = [f"litmeter.stages.{stage}"], set()
    while pending:
        module = pending.pop()
        if module not in seen:
            seen.add(module)
            pending += imports()[module]
    return {str(room_of(module)) for module in seen if module != "litmeter"}


def room_of(module: str) -> Path:
    _, room, *rest = module.split(".")
    if room == "stages":
        return SOURCE / "stages" / f"{rest[0]}.py"
    return SOURCE / room if (ROOT / SOURCE / room).is_dir() else SOURCE / f"{room}.py"


@pytest.mark.parametrize("name", STAGES)
def test_deps_are_what_the_stage_imports(name: str) -> None:
    stage = STAGES[name].get("do", STAGES[name])
    module = stage["cmd"].split()[2]  # type: ignore[attr-defined]
    declared = {path for path in stage["deps"] if path.startswith("src/")}
    assert declared == rooms_of(module)


def test_every_stage_module_is_a_stage_of_the_pipeline() -> None:
    paths = (ROOT / SOURCE / "stages").glob("[!_]*.py")
    modules = {path.stem for path in paths if "\ndef main(" in path.read_text()}
    commands = {STAGES[name].get("do", STAGES[name])["cmd"].split()[2] for name in STAGES}  # type: ignore[attr-defined]
    assert modules == commands
