"""README.md and docs/: what they link to, name and draw is there."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import grimp
import pytest
import yaml
from pydantic import BaseModel

from litmeter.cli.main import app
from litmeter.direct.metrics import STAGES
from litmeter.kinds.configuration import Configuration, TuneSettings
from litmeter.kinds.registry import KINDS
from litmeter.measure.rows import ComparisonRow, TurnRow
from litmeter.params import Params
from litmeter.paths import README
from litmeter.report import pages
from tests.support.project import ROOT

DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / README, *DOCS, *(ROOT / name / "README.md" for name in ("data", "studies"))]
PAGES += sorted(ROOT.glob("examples/*/README.md"))
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
ON_DEMAND = [name for path in ROOT.glob("*/dvc.yaml") for name in yaml.safe_load(path.read_text())["stages"]]

FENCE = re.compile(r"^```[a-z]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
COMMAND = re.compile(r"(?:^|[\s/])litmeter +([a-z][\w-]*)(.*)")
TARGET = re.compile(r"(?:^|\s)make ([a-z][\w-]*)")
REPRO = re.compile(r"dvc repro (?:ondemand/dvc\.yaml:)?([a-z][\w@]*)")
STAGE = re.compile(r"\bstages? `([\w@]+)`(?: and `([\w@]+)`)?")
SECTIONS = "|".join(Params.model_fields)
KEY = re.compile(rf"(?<![\w/.])((?:{SECTIONS})\.(?!py\b)[a-z]\w*(?:\.\w+)?)")
SETTING = re.compile(r"-S '?([\w.]+)=")
PATH = re.compile(r"(?<![\w/.])((?:src|tests|studies|assets)(?:/[\w.*-]+)+)")
STUDY = re.compile(r"\b[Ss]tudy\s+`(\w+)[^`]*`")

Edges = dict[str, set[str]]


def without_fences(text: str) -> str:
    return FENCE.sub("", text)


def code(page: Path) -> list[str]:
    """Every line of a code block, continued ones joined, and every code span."""
    text = page.read_text()
    blocks = [line for block in FENCE.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    return blocks + [" ".join(span.split()) for span in SPAN.findall(without_fences(text))]


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    counts: Counter[str] = Counter()
    found = set()
    for heading in HEADING.findall(without_fences(page.read_text())):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.add(f"{slug}-{counts[slug]}" if counts[slug] else slug)
        counts[slug] += 1
    return found


def every(pattern: re.Pattern[str], page: Path) -> list[str]:
    return [match for fragment in code(page) for match in pattern.findall(fragment)]


def label(page: Path) -> str:
    return str(page.relative_to(ROOT))


def each_page(function: Any) -> Any:
    return pytest.mark.parametrize("page", PAGES, ids=label)(function)


def test_the_readme_links_to_every_page() -> None:
    links = LINK.findall((ROOT / README).read_text())
    assert {label(page) for page in DOCS} <= set(links)


@each_page
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(SPAN.sub("", without_fences(page.read_text()))):
        if link.startswith(("http://", "https://", "../assets/results")):  # a run rewrites its pictures
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@each_page
def test_commands_and_their_options_exist(page: Path) -> None:
    for fragment in code(page):
        for name, rest in COMMAND.findall(fragment):
            assert name in app, fragment
            known = {known for one in app[name].assemble_argument_collection() for known in one.names}
            options = re.findall(r"--[a-z-]+", re.sub(r"'[^']*'", "", rest).partition("#")[0])
            assert set(options) <= known, fragment


@each_page
def test_make_targets_exist(page: Path) -> None:
    rules = re.findall(r"^([a-z][a-z -]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(every(TARGET, page)) <= {target for rule in rules for target in rule.split()}


@each_page
def test_stages_exist(page: Path) -> None:
    prose = " ".join(page.read_text().split())
    named = every(REPRO, page) + [name for pair in STAGE.findall(prose) for name in pair if name]
    assert {name.partition("@")[0] for name in named} <= {*PIPELINE, *ON_DEMAND}


@each_page
def test_parameters_exist(page: Path) -> None:
    unknown = [key for key in {*every(KEY, page), *every(SETTING, page)} if not is_parameter(key.split("."))]
    assert unknown == []


def is_parameter(parts: list[str]) -> bool:
    sections: list[type[BaseModel]] = [Params]
    if parts[0] == "experiments" and len(parts) > 2:  # whose names are free
        parts = ["serve", *parts[2:]]
    if parts[1:2] == ["api_kwargs"]:  # a LitAPI's own
        return len(parts) == 3
    for part in parts:
        found = [section.model_fields[part] for section in sections if part in section.model_fields]
        if not found:
            return False
        sections = [below for field in found for below in sections_in(field.annotation)]
        if Configuration in sections:
            sections = [*KINDS]
        if TuneSettings in sections:
            sections = [kind.tune_section for kind in KINDS]
    return True


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type(BaseModel)):
        return [annotation]
    return [section for part in get_args(annotation) for section in sections_in(part)]


@each_page
def test_source_files_and_studies_exist(page: Path) -> None:
    missing = [path for path in every(PATH, page) if not list(ROOT.glob(path))]
    studies = STUDY.findall(page.read_text())
    assert missing + [name for name in studies if not (ROOT / f"studies/{name}.py").exists()] == []


def test_tuning_explains_every_key_of_serve() -> None:
    keys = dict.fromkeys(key for kind in KINDS for key in kind.model_fields)
    section = (ROOT / "docs/tuning.md").read_text().partition("## The settings\n")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == sorted(keys)


def test_every_column_and_stage_is_explained() -> None:
    text = (ROOT / "docs/measuring.md").read_text()
    columns = {field.name for row in (TurnRow, ComparisonRow) for field in fields(row)}
    assert [name for name in {*columns, *STAGES} if f"`{name}`" not in text] == []


def test_architecture_lists_every_stage_and_result() -> None:
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in (ROOT / "docs/architecture.md").read_text().splitlines()
        if re.match(r"\| `\w+` \| .* \| .* \|$", line)
    ]
    written = {
        row[0].strip("`"): {span.replace("NAME", "${key}") for span in SPAN.findall(row[2])} for row in rows
    }
    for name, stage in PIPELINE.items():
        assert written[name] == outputs(stage) or name == "candidate"
    assert list(written) == list(PIPELINE)


def outputs(stage: dict[str, Any]) -> set[str]:
    """What a stage writes."""
    body = stage.get("do", stage)
    outs = body["outs"] + body.get("metrics", [])
    return {next(iter(out)) if isinstance(out, dict) else out for out in outs}


def test_the_drawing_of_the_pipeline_is_dvc_yamls() -> None:
    depends: Edges = defaultdict(set)
    for name, stage in PIPELINE.items():
        for dependency in stage.get("do", stage)["deps"]:
            depends[name].update(maker for maker in PIPELINE if makes(PIPELINE[maker], dependency))
    assert drawn(ROOT / README) == {(b, a) for a, b in arrows(depends)}


def makes(stage: dict[str, Any], dependency: str) -> bool:
    """Whether what it writes is this file or folder, in it, or the folder that it is in."""
    return any(is_within(out, dependency) or is_within(dependency, out) for out in outputs(stage))


def is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def test_the_drawing_of_the_packages_is_that_of_the_imports() -> None:
    graph = grimp.build_graph("litmeter", exclude_type_checking_imports=False, cache_dir=None)
    imports: Edges = defaultdict(set)
    for module in graph.modules - {"litmeter"}:
        for imported in graph.find_modules_directly_imported_by(module):
            imports[module.split(".")[1]].add(imported.split(".")[1])
    assert drawn(ROOT / "docs/architecture.md") == arrows(imports)


def drawn(page: Path) -> set[tuple[str, str]]:
    [chart] = [block for block in FENCE.findall(page.read_text()) if block.startswith("flowchart")]
    chains = (line.split() for line in chart.splitlines())
    return {pair for chain in chains if chain[1:2] == ["-->"] for pair in itertools.pairwise(chain[::2])}


def arrows(edges: Edges) -> set[tuple[str, str]]:
    """The edges that do not follow from others."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        pending = [start]
        while pending:
            new = edges.get(pending.pop(), set()) - found
            found |= new
            pending += new
        return found

    return {
        (start, end)
        for start, ends in edges.items()
        for end in ends - {start}
        if not any(end in reached(other) for other in ends - {start, end})
    }


def test_the_generated_section_has_both_markers_once() -> None:
    markers = (pages.BEGIN, pages.END)
    text = (ROOT / README).read_text()
    assert [text.count(marker) for marker in markers] == [1, 1]
    assert all(text.index(first) < text.index(second) for first, second in pairwise(markers))
