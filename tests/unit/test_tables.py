"""The table of results, and those that DVC shows and plots."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from litmeter.kinds.classifier import Classifier
from litmeter.kinds.command import Command
from litmeter.kinds.lit_api import LitApi
from litmeter.measure.comparison_rows import Pair
from litmeter.params import changed_settings
from litmeter.paths import BOUNDS, DIAGNOSIS, LEVELS, PICTURES_FOLDER, STAGES, SUMMARY
from litmeter.report.diagnosis import bounds_of, diagnose, share_cell
from litmeter.report.results import Result
from litmeter.report.snapshot import Snapshot
from litmeter.report.tables import (
    bounds_table,
    changes_text,
    comparison_table,
    differences,
    level_rows,
    pairs_table,
    short_names,
    summary,
)
from litmeter.say.tables import fitted_table, ratio_cell, significant, text_table
from litmeter.stages.report import main
from litmeter.stats.ratios import Ratio
from litmeter.system.files import read_json
from tests.support.results_project import write_project
from tests.support.synthetic_results import CEILINGS, compared, result, turn
from tests.support.tables import read_csv


def test_the_stage_writes_what_dvc_plots_and_prints_the_table(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_project()
    main()
    names = list(snapshot.params.configurations())
    for table in (LEVELS, BOUNDS, DIAGNOSIS, STAGES):
        assert list(dict.fromkeys(row["experiment"] for row in read_csv(table))) == names
    assert read_json(SUMMARY)["candidate"] == 168.0
    assert {path.stem for path in PICTURES_FOLDER.iterdir()} == {"comparison", "stages"}
    printed = capsys.readouterr().out
    assert snapshot.table(terminal=True) in printed
    assert "`" not in printed


def cells(table: str) -> dict[str, list[str]]:
    """The cells of each row, by its first."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {row[0].strip("`"): row[1:] for row in rows}


def test_a_row_has_rate_ratio_share_rank_p95_and_cause_wherever_it_is_shown(snapshot: Snapshot) -> None:
    page, terminal = cells(snapshot.table()), cells(snapshot.table(terminal=True))
    cause = snapshot.diagnoses["candidate"].cause
    assert page["candidate"][1:] == ["168", "8.40 (7.98 to 8.82)", "59%", "2", "67 ms", cause]
    assert page["e3_workers"][4:6] == ["5", "n/a (24 of 130 answers)"]
    assert page["e1_baseline"][2] == "1"
    assert {name: row[1:] for name, row in page.items() if name[0] == "e"} == {
        name: row for name, row in terminal.items() if name[0] == "e"
    }
    ranks = [int(row[4]) for name, row in page.items() if name in snapshot.diagnoses]
    assert ranks == sorted(ranks)


def test_a_row_of_an_earlier_run_has_its_date_and_a_silent_row_its_bound(snapshot: Snapshot) -> None:
    kept = replace(compared("e2_batching", 28.0, None), earlier="2026-11-29")
    silent = replace(compared("e3_workers", None, None, None), ratio_high=0.05, answers=0)
    rows = [kept, silent, compared("e1_baseline", 20.0, 1)]
    found = cells(comparison_table(rows, "e1_baseline", snapshot.params.configurations()))
    assert found["e2_batching"][3] == "earlier, 2026-11-29"
    assert found["e3_workers"] == ["-", "below 0.05", "-", "-", "n/a (0 of 130 answers)"]


def test_a_level_is_the_mean_of_its_turns_and_has_a_percentile_where_both_do() -> None:
    own = result("e1", 60.0)
    more = turn("e1", "served", 80.0, 1, p95_ms=None)
    lone, level = level_rows([replace(own, alone=[*own.alone, more])])
    assert (lone["users"], lone["throughput_rps"]) == (1, 30.0)
    assert level["throughput_rps"] == pytest.approx(66.67)
    assert level["p95_ms"] is None
    assert level["p50_ms"] is not None


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["e1_a", "e2_b", "candidate"], ["e1", "e2", "candidate"]),
        (["e1_a", "e1_b", "e2_c_d"], ["e1_a", "e1_b", "e2"]),
        (["candidate_b", "candidate"], ["candidate_b", "candidate"]),
    ],
)
def test_names_are_cut_where_they_stay_unique(names: list[str], short: list[str]) -> None:
    assert short_names(names) == dict(zip(names, short, strict=True))


def test_the_summary_has_a_rate_by_short_name_candidate_first() -> None:
    silent = compared("e2_batching", None, None)
    found = summary([compared("e1_baseline", 35.249, 1), silent, compared("candidate", 512.34, 1)])
    assert list(found.items()) == [("candidate", 512.0), ("e1", 35.2), ("e2", 0.0)]


def test_changed_settings_are_named_as_in_params() -> None:
    after = Classifier(max_batch_size=8, keep_freed_memory=True)
    found = changed_settings(Classifier(), after)
    assert found == {"max_batch_size": (1, 8), "keep_freed_memory": (False, True)}
    assert changes_text(found) == "keep_freed_memory false -> true, max_batch_size 1 -> 8"


def test_a_pair_has_its_ratios_and_what_is_known_of_them() -> None:
    pair = Pair("b", "a", 1.5, 1.4, 1.6, "faster", 40.0, None, None, None, None, "no difference resolved")
    known = ["1.50 (1.40 to 1.60)", "faster", "40 / -", "-", "n/a (below 130 answers)"]
    table = pairs_table([pair], "requests", streams=False)
    assert cells(table)["b / a"] == known
    assert "times the rate |" in table
    streamed = pairs_table([pair], "tokens", streams=True)
    assert {"times the tokens/s", "TTFT p95 ms"} <= {cell.strip() for cell in streamed.split("|")}


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((17.584, 15.641, 19.766), "17.6 (15.6 to 19.8)"),
        ((0.0412, 0.0381, 0.0432), "0.041 (0.038 to 0.043)"),
        ((1.003, 1.001, 1.0043), "1.003 (1.001 to 1.004)"),
        ((0.1, 0.095, 0.105), "0.100 (0.095 to 0.105)"),
        ((1.0, 1.0, 1.0), "1.00"),
        ((0.04, None, None), "0.04"),
        ((None, None, 0.05), "-"),
    ],
)
def test_an_interval_has_the_digits_that_tell_its_ends_apart(
    ends: tuple[float | None, float | None, float | None], text: str
) -> None:
    assert ratio_cell(*ends) == text


def test_what_is_compared_is_said_by_its_differences_from_the_first() -> None:
    first = LitApi(api="server:A", api_kwargs={"size": "small"})
    eight = first.model_copy(update={"max_batch_size": 8, "transport": "direct"})
    command = "python server.py --port {port} " + "--option " * 20 + "--last"
    servers = {"one": first, "eight": eight, "one (2)": first, "other": Command(command=command)}
    found = differences(servers, "cpu")
    assert found[0].startswith("one: server:A, size small, max_batch_size 1")
    assert found[1:3] == ["eight: max_batch_size 8, transport direct", "one (2): the same as one"]
    assert found[3] == f"other: {command}"


def test_a_table_has_all_columns_however_narrow_the_terminal_is() -> None:
    head, row = [f"column {number}" for number in range(9)], [f"cell {number}" for number in range(9)]
    for width in (30, 60, 80):
        lines = fitted_table(head, [row], width).splitlines()
        assert all(len(line) <= width for line in lines)
        assert [cell for cell in head if not any(cell in line for line in lines)] == []
        assert sum("cell 0" in line for line in lines) == sum("column 0" in line for line in lines)
    assert fitted_table(head, [row], 200) == text_table(head, [row])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.04123, "0.0412"),
        (2.744, "2.74"),
        (99.96, "100"),
        (279.9, "280"),
        (2394.0, "2,390"),
        (12345.6, "12,300"),
        (999_999.0, "1,000,000"),
    ],
)
def test_a_figure_has_three_digits_and_no_exponent(value: float, text: str) -> None:
    assert significant(value) == text


def test_a_share_above_the_whole_has_its_interval() -> None:
    assert share_cell(Ratio(0.9, 0.8, 1.1)) == "90%"
    assert share_cell(Ratio(0.05, 0.04, 0.06)) == "5.0%"
    assert share_cell(Ratio(1.001, 0.9, 1.1)) == "100%"
    assert share_cell(Ratio(1.034, 0.981, 1.09)) == "103% (98% to 109%)"
    assert "unknown" in share_cell(Ratio(1.2, None, None))
    bounds = bounds_of(result("e1", 104.0, 100.0, 101.0), CEILINGS)
    assert re.search(r"103% \(\d+% to \d+%\)", bounds_table({"e1": bounds}))


OWN = result("e1_baseline", serve=LitApi(api="server:MyAPI"))
ALONE = replace(OWN.compared, model_rps=None, pipeline_rps=None)
WHY = "a command is not run in-process"


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (replace(OWN, unavailable=WHY), WHY),
        (replace(OWN, turns=[]), "not of this run"),
        (replace(OWN, turns=OWN.served, compared=ALONE), "not run in-process"),
        (result("e1_baseline", 100.0, serve=OWN.serve), "nothing lost"),
        (result("e1_baseline", 150.0, serve=OWN.serve), "error of measuring"),
    ],
    ids=["a command", "an earlier run's", "not in-process", "as fast as the model", "faster"],
)
def test_a_row_without_a_cause_says_why(snapshot: Snapshot, own: Result, said: str) -> None:
    found = diagnose(own, bounds_of(own, CEILINGS), CEILINGS)
    assert said in found.held_back_by
    shown = replace(snapshot, results=[own], diagnoses={"e1_baseline": found})
    assert cells(shown.table())["e1_baseline"][-1] == found.held_back_by
