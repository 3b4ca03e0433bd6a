"""Report and pages of a LitAPI, and of servers that a command starts."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from litmeter.kinds.registry import read as read_keys
from litmeter.measure.comparison_rows import read_comparison
from litmeter.measure.rows import TurnRow
from litmeter.params import load_params
from litmeter.paths import BENCHMARKS, COMPARISON_TURNS, LEVELS, SUMMARY
from litmeter.report.claims import claims
from litmeter.report.diagnosis import bounds_of, diagnose
from litmeter.report.losses import NO_KEY
from litmeter.report.pages import page, render, write_report, write_results
from litmeter.report.snapshot import read_snapshot
from litmeter.settings import CANDIDATE
from litmeter.stages.report import main
from litmeter.system.files import read_json, read_rows, write_rows
from tests.support import results_project
from tests.support.results_project import NOT_IN_PROCESS, write_own_project
from tests.support.synthetic_results import CEILINGS, compared, result, write_comparison, write_result

API: dict[str, Any] = {"api": "server:MyAPI", "threads_per_worker": 1}
COMMAND: dict[str, Any] = {"command": "python -m a.server.with --many --options --port {port} --batch 8"}
BATCHED = API | {"max_batch_size": 8, "batch_timeout_s": 0.01, "workers_per_device": 2}
OF_THE_CLASSIFIER = re.compile(r"\b(image|photo|accuracy|agreement|FLOP|None|precision|make)s?\b")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_pages_of_a_litapi_name_nothing_of_the_classifier() -> None:
    write_own_project({"single": API, "batched": BATCHED}, API | {"max_batch_size": 4})
    main()
    snapshot = read_snapshot()
    written = page(snapshot)
    html = re.sub(r"<style>.*</style>", "", render([snapshot]), flags=re.S)
    assert OF_THE_CLASSIFIER.findall(written + html) == []
    assert ".md" not in written
    assert "| server:MyAPI, max_batch_size 8, batch_timeout 0.01 s, 2 workers of 1 thread |" in written
    assert "litmeter tune" in written


PREPROCESSING = ((49.0, 100.0, 50.0), {"workers_cpu_ms": 39.0})
TRANSPORT = ((60.0, 100.0, 100.0), {"workers_cpu_ms": 19.0, "http_cpu_ms": 12.5})


@pytest.mark.parametrize(
    ("keys", "measured", "cause", "advised"),
    [
        ({"transport": "direct"}, PREPROCESSING, "preprocessing", None),
        ({"transport": "direct"}, TRANSPORT, "transport", None),
        ({}, TRANSPORT, "transport", "transport"),
    ],
)
def test_only_keys_that_a_litapi_has_are_advised(
    keys: dict[str, str], measured: tuple[Any, dict[str, float]], cause: str, advised: str | None
) -> None:
    rates, columns = measured
    found = result("own", *rates, serve=read_keys(API | keys), **columns)
    bounds = bounds_of(found, CEILINGS)
    assert [bound.name for bound in bounds] == ["model", "pipeline", "served"]
    diagnosis = diagnose(found, bounds, CEILINGS)
    assert (diagnosis.cause, diagnosis.parameter) == (cause, advised)
    assert (NO_KEY in diagnosis.text) is (advised is None)
    assert OF_THE_CLASSIFIER.findall(diagnosis.text) == []


def test_bounds_and_causes_of_a_command_are_not_available_and_the_reason_is_said() -> None:
    write_own_project({"single": API, "other": COMMAND}, COMMAND)
    snapshot = read_snapshot()
    assert snapshot.diagnoses["other"].cause == "not available"
    assert NOT_IN_PROCESS in snapshot.diagnoses["other"].text
    assert [bound.name for bound in snapshot.bounds["other"]] == ["served"]
    assert {"limit", "next"}.isdisjoint(claim.kind for claim in claims(snapshot))  # a command is fastest
    assert NOT_IN_PROCESS in page(snapshot)


def test_servers_that_a_command_starts_have_a_page_without_bounds_and_stages() -> None:
    write_own_project({"one": COMMAND, "other": COMMAND | {"path": "/other"}})
    write_results()
    write_report()
    written = page(read_snapshot())
    assert not any(text in written for text in ("in-process in the rounds", "stages.png"))


def test_a_command_may_stand_beside_the_classifier() -> None:
    results_project.write_project()
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["experiments"]["other"] = COMMAND
    Path("params.yaml").write_text(yaml.safe_dump(params))
    serve = load_params().configuration("other")
    found = result("other", 30.0, None, None, serve=serve, row=compared("other", 30.0, 3, fastest=286.0))
    write_result(found)
    write_rows(COMPARISON_TURNS, TurnRow, [*read_rows(COMPARISON_TURNS, TurnRow), *found.turns])
    write_comparison([*read_comparison().rows, found.compared], unavailable={"other": NOT_IN_PROCESS})
    snapshot = read_snapshot()
    assert [bound.name for bound in snapshot.bounds["other"]] == ["served"]
    assert "roofline" in [bound.name for bound in snapshot.bounds[CANDIDATE]]
    written = page(snapshot)
    assert NOT_IN_PROCESS in written
    assert "images/s" in written


def test_a_comparison_alone_has_a_report_without_a_candidate() -> None:
    """As `litmeter compare` of servers on the command line makes it."""
    write_own_project({"one": COMMAND, "other": COMMAND | {"path": "/other"}})
    for path in BENCHMARKS.iterdir():
        path.unlink()
    BENCHMARKS.rmdir()
    main()
    assert read_json(SUMMARY) == {"one": 20.0, "other": 40.0}
    assert len(LEVELS.read_text().splitlines()) == 1
    written = page(read_snapshot())
    assert not any(text in written for text in (CANDIDATE, "What each does alone"))
    found = read_snapshot()
    few = [replace(one, compared=replace(one.compared, rounds=5, ratio_high=9.0)) for one in found.results]
    html = render([replace(found, results=few)])
    assert "1.5 s to start" in html
    assert not any(text in html for text in ("comparison.seconds", "p95 below"))  # nobody has set these


def test_a_configuration_is_described_by_what_it_has() -> None:
    own = API | {"api_kwargs": {"size": "small"}, "check_answers": False}
    write_own_project({"own": own, "command": COMMAND})
    described = {name: serve.describe("cpu") for name, serve in load_params().configurations().items()}
    settings = "size small, max_batch_size 1, 1 worker of 1 thread, answers not compared"
    assert described["own"] == f"server:MyAPI, {settings}"
    assert described["command"].endswith(" ...")
    assert len(described["command"]) <= 60


def test_the_pages_title_is_what_is_served() -> None:
    write_own_project({"one": COMMAND, "other": API})
    assert f"<title>litmeter: {COMMAND['command'][:20]}" in (html := render([read_snapshot()]))
    assert "..., server:MyAPI</title>" in html
    results_project.write_project()
    assert "<title>litmeter: tiny</title>" in render([read_snapshot()])
