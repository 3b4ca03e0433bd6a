"""docs/results.md and the README's results, written from results of every configuration."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from litmeter.errors import ReportError
from litmeter.measure.comparison_rows import read_comparison
from litmeter.measure.rows import TurnRow
from litmeter.params import params_on
from litmeter.paths import (
    CAPACITY_PICTURE,
    MACHINE,
    README,
    RESULTS_PAGE,
    TUNE_KNOBS,
    TUNE_METRICS,
    TUNE_PICTURE,
    TUNE_TABLE,
    CapacityPaths,
)
from litmeter.report import charts
from litmeter.report.claims import claims
from litmeter.report.diagnosis import Diagnosis
from litmeter.report.pages import (
    BEGIN,
    END,
    README_PICTURE,
    marked,
    page,
    readme_section,
    reasons,
    render,
    write_results,
)
from litmeter.report.snapshot import OUTDATED, read_snapshot
from litmeter.report.tables import bounds_table
from litmeter.settings import CANDIDATE
from litmeter.system.files import read_json, write_json, write_rows
from litmeter.system.machine import recorded_machine
from litmeter.tune.rows import KnobRow, TuneRow
from tests.support.capacity import PROBES, probe, write_capacity
from tests.support.results_project import AVX2, BFLOAT16, searched, write_project


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_project(earlier="e2_batching", changed=True)


def test_the_readmes_results_replace_the_old_and_nothing_else() -> None:
    write_results(readme=True)
    before, _, rest = README.read_text().partition(BEGIN)
    section, _, after = rest.partition(END)
    assert (before, after) == ("# A project\n\n", "\n\nand more\n")
    assert "\nold\n" not in section
    assert f"]({README_PICTURE})" in section
    assert README_PICTURE.stat().st_size > 5000


@pytest.mark.parametrize("machine", [AVX2, BFLOAT16], ids=["emulating", "native"])
def test_all_pages_have_the_same_claims_and_the_same_table(machine: dict[str, object]) -> None:
    write_project(machine, earlier="e2_batching", changed=True)
    snapshot = read_snapshot()
    said = claims(snapshot)
    kinds = {claim.kind for claim in said}
    assert kinds == {"change", "fastest", "form", "limit", "next", "objective", "doubt"}
    assert "earlier, 2026-11-29" in snapshot.table()
    for text in (readme_section(snapshot), page(snapshot)):
        assert snapshot.table() in text
        assert [claim for claim in said if text.count(claim.sentence) != 1] == []
    html = render([snapshot])
    assert [claim for claim in said if html.count(marked(claim.sentence)) != 1] == []


def test_the_page_has_accuracy_costs_precisions_pictures_and_every_diagnosis() -> None:
    text = page(read_snapshot())
    cells = ["int8", "torchvision", "4.5", "111 test", "99.1%", "95.8%", "98.2%", "-0.9"]
    figures = ["0.384 GMACs", "0.768 GFLOPs", "0.991 on 111", "0.951 to 0.998", f"| {' | '.join(cells)} |"]
    pictures = [f"](../assets/results/{picture}.png)" for picture in ("comparison", "stages")]
    assert [one for one in figures + pictures if one not in text] == []
    bullets = [line for line in text.splitlines() if line.startswith("- `")]
    for name, diagnosis in read_snapshot().diagnoses.items():
        [bullet] = [line for line in bullets if f"`{name}`" in line.partition(": ")[0]]
        assert bullet.endswith(diagnosis.text)


def test_bounds_and_bars_stand_in_the_order_of_params_yaml() -> None:
    content = yaml.safe_load(Path("params.yaml").read_text())
    content["experiments"] = dict(reversed(content["experiments"].items()))
    Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    snapshot, names = read_snapshot(), [*content["experiments"], CANDIDATE]
    assert re.findall(r"^\| `(\w+)`", bounds_table(snapshot.bounds), re.MULTILINE) == names
    names.remove("e2_batching")  # of an earlier run: it has no turns
    assert list(charts.stages(snapshot.results).names) == names


def test_configurations_with_the_same_diagnosis_share_a_bullet() -> None:
    texts = {"a": "X: 1.", "b": "X: 2.", "c": "X: 1."}
    found = {name: Diagnosis("x", None, text) for name, text in texts.items()}
    assert reasons(found).splitlines() == ["- `a`, `c`: X: 1.", "- `b`: X: 2."]


@pytest.mark.parametrize(("kept", "missing"), [(BEGIN, "end of results"), (END, "litmeter results")])
def test_a_readme_without_a_marker_changes_nothing(kept: str, missing: str) -> None:
    README.write_text(f"# title\n{kept}\n")
    with pytest.raises(ReportError, match=f"README.md: the marker .*{missing}.* is missing"):
        write_results(readme=True)
    assert README.read_text() == f"# title\n{kept}\n"
    assert not README_PICTURE.exists()


@pytest.mark.parametrize(
    ("changes", "told", "outdated"),
    [({}, True, False), ({"environment": "another"}, True, True), ({"machine": "another"}, False, False)],
)
def test_what_was_searched_on_this_machine_is_drawn_and_told(
    changes: dict[str, str], told: bool, outdated: bool
) -> None:
    found = searched()
    metrics = found.metrics.model_copy(update=recorded_machine() | changes)
    write_json(TUNE_METRICS, metrics.model_dump(mode="json"))
    write_rows(TUNE_TABLE, TuneRow, found.rows)
    write_rows(TUNE_KNOBS, KnobRow, found.knobs)
    write_results()
    assert TUNE_PICTURE.exists() is told
    assert ("int8 direct 2x1 b4" in RESULTS_PAGE.read_text()) is told
    assert (f"{OUTDATED}: `{TUNE_METRICS}`" in RESULTS_PAGE.read_text()) is outdated


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, True),
        ({"environment": "another"}, True),
        ({"machine": "another"}, False),
        ({"settings": "others"}, False),
    ],
    ids=["these", "another environment", "another machine", "other settings"],
)
def test_a_capacity_of_this_machine_and_these_settings_is_drawn_and_told(
    changes: dict[str, Any], told: bool
) -> None:
    write_capacity(CANDIDATE, **changes)
    write_results()
    assert CAPACITY_PICTURE.exists() is told
    text = RESULTS_PAGE.read_text()
    assert ("`candidate` takes 290 to 310 requests a second" in text) is told
    assert ("| `candidate` | 290 to 310 | 4 | 5 |" in text) is told
    assert (f"{OUTDATED}: `{CapacityPaths(CANDIDATE).metrics}`" in text) is ("environment" in changes)


@pytest.mark.parametrize(
    ("then", "told"), [(1.0, True), (0.85, True), (1.2, True), (1 / 1.7, False), (1.7, False)]
)
def test_what_was_found_at_another_speed_is_no_answer(then: float, told: bool) -> None:
    """`make capacity` tries 4 and 16 users, the comparison 8; a search has the rate of `serve:` itself."""
    [row] = [one for one in read_comparison().rows if one.experiment == CANDIDATE]
    rate_rps, serve, found = then * (row.rate_rps or 0.0), params_on(read_json(MACHINE))[0].serve, searched()
    write_capacity(CANDIDATE)
    loops = [
        replace(probe(1, 0), users=users, offered_rps=None, rate_rps=rate_rps * share)
        for users, share in ((4, 0.97), (16, 1.03))
    ]
    write_rows(CapacityPaths(CANDIDATE).probes, TurnRow, [*loops, *PROBES])
    write_json(TUNE_METRICS, found.metrics.model_copy(update=recorded_machine()).model_dump(mode="json"))
    knobs = {key: str(getattr(serve, key)) for key in serve.knobs}
    rows = [
        found.rows[0],
        replace(found.rows[0], name="serve", incumbent=True, rate_rps=rate_rps, knobs=knobs),
    ]
    write_rows(TUNE_TABLE, TuneRow, rows)
    write_rows(TUNE_KNOBS, KnobRow, found.knobs)
    said = [claim.sentence for claim in claims(read_snapshot())]
    assert any("takes 290 to 310 requests a second" in one for one in said) is told
    assert any("searched 2026" in one for one in said) is told
    [left_out] = [one for one in said if one.startswith("Left out")] or [""]
    assert (
        all(text in left_out for text in ("the capacity of `candidate`", "the search", "`make capacity`"))
        is not told
    )


def test_a_patch_release_is_no_other_environment() -> None:
    machine = read_json(MACHINE)
    for version, same in (("2.0.1", True), ("2.1.0", False)):
        write_json(MACHINE, machine | {"torch": "2.0.0"})
        before = recorded_machine()
        write_json(MACHINE, machine | {"torch": version})
        assert (recorded_machine() == before) is same


def test_a_capacity_that_other_code_has_written_costs_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    write_capacity(CANDIDATE)
    metrics = CapacityPaths(CANDIDATE).metrics
    write_json(metrics, {key: value for key, value in read_json(metrics).items() if key != "probes"})
    write_results()
    assert f"{metrics}: not of this code" in capsys.readouterr().out
