"""Each dvc.yaml names, for each stage, the code that its figures depend on, and the results that it reads."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml

from tests.support.project import ROOT
from tests.support.results_project import write_project


def stages_of(path: Path) -> dict[str, dict[str, Any]]:
    """The stages of a dvc.yaml, by name."""
    stages = yaml.safe_load(path.read_text())["stages"]
    return {name: stage.get("do", stage) for name, stage in stages.items()}


STAGES = stages_of(ROOT / "dvc.yaml") | stages_of(ROOT / "ondemand/dvc.yaml")
NO_FIGURES = {"say", "system", "errors", "settings", "paths", "cli", "report"}
"""They check, write, print and draw what others measure. Only the stage `report` depends on `report`."""
OF_MEASURING = {"system"}
"""Yet what sends a load depends on it: how servers are started, and with what memory."""
GUEST = "classifier"
"""The room whose own rooms stages depend on that measure no server."""
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
    pending, seen = [module := f"litmeter.stages.{stage}"], set()
    if "litmeter.load" in imports()[module]:
        left_out -= OF_MEASURING
    while pending:
        module = pending.pop()
        if module not in seen and module != "litmeter" and module.split(".")[1] not in left_out:
            seen.add(module)
            pending += imports()[module]
    files = {source_of(module).relative_to(ROOT) for module in seen}
    return {file for file in files if file.name != "__init__.py"}


def room(file: Path, *, measures: bool) -> str:
    """The folder in the package that has a file; the file of a stage, and of a room that is one, itself."""
    depth = 4 if file.parts[2] == "stages" or (file.parts[2] == GUEST and not measures) else 3
    return str(Path(*file.parts[:depth]))


@pytest.mark.parametrize("name", sorted(STAGES.keys() - {"machine"}))  # which runs always
def test_deps_are_what_the_figures_depend_on(name: str) -> None:
    files = figure_modules(STAGES[name]["cmd"].split()[2])
    measures = any(file.parts[2] == "kinds" for file in files)
    declared = {path for path in STAGES[name]["deps"] if path.startswith("src/")}
    assert declared == {room(file, measures=measures) for file in files}


def test_every_stage_module_is_a_stage_of_the_pipeline() -> None:
    paths = (ROOT / "src/litmeter/stages").glob("[!_]*.py")
    modules = {path.stem for path in paths if "\ndef main(" in path.read_text()}
    assert modules == {stage["cmd"].split()[2] for stage in STAGES.values()}


def outputs(stages: Iterable[dict[str, Any]]) -> set[Path]:
    listed = [out for one in stages for out in [*one.get("outs", []), *one.get("metrics", [])]]
    return {Path(path) for out in listed for path in ([out] if isinstance(out, str) else out)}


def results(path: Path) -> set[Path]:
    """The results that the stage `report` of a dvc.yaml depends on."""
    return {Path(one) for one in stages_of(path)["report"]["deps"] if not one.startswith("src/")}


REPORT_OPENS = """
import os, sys
def print_result(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        path = os.path.relpath(arguments[0])
        if path.startswith(("metrics/", "plots/")) and not path.endswith(".tmp"):
            print(path, file=sys.stderr)
from litmeter.stages.report import main
sys.addaudithook(print_result)
main()
"""


def test_report_depends_on_all_results_that_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for those that are measured where they are asked for: none of what it writes depends on them."""
    monkeypatch.chdir(tmp_path)
    write_project()
    done = subprocess.run([sys.executable, "-c", REPORT_OPENS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    on_demand, declared = outputs(STAGES[name] for name in ("capacity", "tune")), results(ROOT / "dvc.yaml")
    opened = [{path := Path(line), *path.parents} for line in done.stderr.splitlines()]
    for places in opened:
        assert places & (on_demand | declared), places
    assert declared == set().union(*opened) & declared


@pytest.mark.parametrize(
    "path", [ROOT / "src/litmeter/cli/templates/dvc.yaml", *sorted(ROOT.glob("examples/*/dvc.yaml"))]
)
def test_without_a_classifier_report_depends_on_all_of_these_that_there_are(path: Path) -> None:
    made = outputs(stages_of(path).values())
    wanted = results(ROOT / "dvc.yaml")
    assert results(path) == {one for one in wanted if any(one in (out, *out.parents) for out in made)}
