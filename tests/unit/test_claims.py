"""What is said of the results: who is fastest, what limits it, what is in doubt, and what to try next."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from litmeter.measure.capacity import CapacityResult
from litmeter.measure.rows import ComparisonRow
from litmeter.params import ObjectiveSettings
from litmeter.paths import CEILINGS
from litmeter.report.claims import carried, claims, fastest, next_step, objective, tuned_text, verdict
from litmeter.report.diagnosis import Bound
from litmeter.report.snapshot import Snapshot, Tuned, read_snapshot
from litmeter.say.tables import significant
from litmeter.settings import CANDIDATE
from litmeter.stats.ratios import Ratio
from litmeter.system.files import read_json, write_json
from tests.support.capacity import CAPACITY
from tests.support.results_project import write_project
from tests.support.search import WINNER, tuned
from tests.support.synthetic_results import MACHINE, compared, turn

REFERENCE = compared("e1_baseline", 20.0, 3, p95_ms=400.0)
FAST = compared("e7_tuned", 60.0, 1, p95_ms=700.0)
SHIPPED = compared(CANDIDATE, 40.0, 2, p95_ms=300.0)
WITHIN = ObjectiveSettings(
    slo_ms=500.0, miss=0.05, configurations=(CANDIDATE,), tolerance=0.1, max_s=60.0, seed=1
)
FEW: dict[str, Any] = dict.fromkeys(("p50_ms", "p95_ms", "objective_ms"))
"""Of too few answers."""
SILENT = compared("e2_batching", None, None, p95_ms=None)


def says(sentence: str, *parts: str) -> bool:
    return all(part in sentence for part in parts)


def with_rows(snapshot: Snapshot, rows: Sequence[ComparisonRow]) -> Snapshot:
    """The snapshot with other rows of the configurations that these are of, and no others."""
    own = {row.experiment: row for row in rows}
    results = [replace(one, compared=own[one.name]) for one in snapshot.results if one.name in own]
    return replace(snapshot, results=results)


def kinds(snapshot: Snapshot) -> list[str]:
    return [claim.kind for claim in claims(snapshot)]


def test_one_is_fastest_with_its_rate_and_its_ratios_to_the_reference_and_the_second() -> None:
    claim = fastest([REFERENCE, FAST, SHIPPED], "e1_baseline")
    assert says(claim.sentence, "`e7_tuned` is fastest", "60.0", "3.00 (2.85 to 3.15)")
    assert says(claim.sentence, "8 users", "1.50 (1.46 to 1.55) times the second, `candidate`")


def test_a_tie_is_said_and_no_certainty_where_nothing_was_ranked_behind() -> None:
    tie = fastest([REFERENCE, FAST, replace(SHIPPED, rank=1)], "e1_baseline")
    assert says(tie.sentence, "`e7_tuned` does", "whether it or `candidate` is fastest is not resolved")
    alone = fastest([replace(REFERENCE, rank=1), SILENT], "e1_baseline")
    assert not says(alone.sentence, "certainty")
    assert not says(alone.sentence, "times")  # the reference itself
    assert says(fastest([SILENT], "e1_baseline").sentence, "No configuration could be compared")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.97, 1.07, "no difference resolved"),
        (0.98, 1.02, "equal within 3%"),
        (1.01, 1.1, "faster"),
        (0.8, 0.9, "slower"),
        (None, None, "no difference resolved"),
    ],
)
def test_a_verdict_is_as_sure_as_the_interval(low: float | None, high: float | None, expected: str) -> None:
    middle = (low + high) / 2 if low and high else 1.0
    assert verdict(Ratio(middle, low, high)) == expected


def test_what_other_settings_did_comes_first_where_some_were_changed(snapshot: Snapshot) -> None:
    assert "change" not in kinds(snapshot)
    over = {"changes": {"max_batch_size": [4, 8]}, "ratio": 1.02, "low": 0.97, "high": 1.07}
    after = replace(snapshot, over_before=over | {"p95_ms": [65.2, 66.1]})
    assert claims(after)[0].sentence == (
        "max_batch_size 4 -> 8: 1.02 (0.97 to 1.07) times as fast, no difference resolved; p95 65 -> 66 ms."
    )
    unknown = replace(snapshot, over_before=over | {"p95_ms": [65.2, None]})
    assert "p95" not in claims(unknown)[0].sentence


def test_the_cause_of_the_fastest_is_said_with_its_loss(snapshot: Snapshot) -> None:
    [claim] = [one for one in claims(snapshot) if one.kind == "limit"]
    diagnosis = snapshot.diagnoses["e7_tuned"]
    assert isinstance(diagnosis.loss, Bound)
    assert says(claim.sentence, "`e7_tuned`", diagnosis.cause, significant(diagnosis.loss.rate_rps))
    unknown = {**snapshot.diagnoses, "e7_tuned": replace(diagnosis, cause="")}
    assert "limit" not in kinds(replace(snapshot, diagnoses=unknown))


def test_it_is_said_where_ratios_contain_another_form_of_request(snapshot: Snapshot) -> None:
    [said] = [claim for claim in claims(snapshot) if "base64" in claim.sentence]
    assert claims(snapshot).index(said) == 1 + kinds(snapshot).index("fastest")
    # HTTP process and manager take 1.5 ms, of all that two cores do for a request.
    rates = [one.compared.rate_rps or 0.0 for one in snapshot.results if one.serve.transport == "litserve"]
    assert says(said.sentence, "`e1_baseline` and 5 others", "`e7_tuned`")
    shares = [float(number) for number in re.findall(r"([\d.]+)%", said.sentence)]
    assert shares == pytest.approx([100 * 1.5 * end(rates) / 2000 for end in (min, max)], rel=0.1, abs=0.05)
    load = snapshot.params.load.model_copy(update={"request_body": "json"})
    alike = [
        replace(snapshot, params=snapshot.params.model_copy(update={"load": load})),
        replace(snapshot, results=[one for one in snapshot.results if one.serve.transport == "direct"]),
        replace(snapshot, results=[one for one in snapshot.results if one.serve.transport == "litserve"]),
    ]
    for other in alike:
        assert carried(other) is None


def test_the_fastest_and_the_candidate_say_how_much_traffic_they_take(snapshot: Snapshot) -> None:
    assert "capacity" not in kinds(snapshot)
    found = CapacityResult(CAPACITY, [], None)
    known = replace(snapshot, capacities=dict.fromkeys(["e1_baseline", CANDIDATE, "e7_tuned"], found))
    first, second = (one.sentence for one in claims(known) if one.kind == "capacity")
    assert says(first, "`e7_tuned` takes 290 to 310", "for 1,000 a second plan 4 machines, 5 with one spare.")
    assert says(second, "`candidate` takes 290 to 310")


def test_the_fastest_and_the_one_to_ship_may_differ() -> None:
    assert objective([REFERENCE, FAST, SHIPPED], WITHIN).sentence.endswith(": `candidate`, 300 ms.")
    equal = [replace(row, objective_ms=300.0) for row in (FAST, replace(SHIPPED, rank=1))]
    both = objective([REFERENCE, *equal], WITHIN)
    assert says(both.sentence, "`e7_tuned`, 300 ms or `candidate`, 300 ms", "not resolved")


@pytest.mark.parametrize("changes", [{"failed": 7}, FEW, {"objective_ms": 501.0}])
def test_who_fails_or_is_late_does_not_keep_to_the_objective(changes: dict[str, Any]) -> None:
    row = replace(SHIPPED, rank=1, **changes)
    assert objective([REFERENCE, row], WITHIN).sentence.endswith(": `e1_baseline`, 400 ms.")
    assert says(objective([row], WITHIN).sentence, "None")


@pytest.mark.parametrize(("miss", "percent"), [(0.05, "p95"), (0.01, "p99"), (0.001, "p99.9"), (0.5, "p50")])
def test_the_objective_names_the_percentile_that_its_miss_asks_for(miss: float, percent: str) -> None:
    """Whose p95 keeps to it, and whose p99 does not, is not named for a miss of 1%."""
    asked = WITHIN.model_copy(update={"miss": miss})
    late = replace(FAST, p95_ms=300.0, objective_ms=700.0)
    for rows in ([REFERENCE, late, SHIPPED], [late], [replace(SHIPPED, **FEW)]):
        sentence = objective(rows, asked).sentence
        assert f"{percent} below 500 ms" in sentence
        assert not says(sentence, "`e7_tuned`")
    assert says(objective([replace(SHIPPED, **FEW)], asked).sentence, "answers")


def test_a_row_of_earlier_code_has_the_percentiles_of_its_columns() -> None:
    earlier = replace(SHIPPED, objective_ms=None)
    assert objective([REFERENCE, earlier], WITHIN).sentence.endswith(": `candidate`, 300 ms.")
    stricter = WITHIN.model_copy(update={"miss": 0.01})
    assert says(objective([earlier], stricter).sentence, "None", "p99", "662 answers")


@pytest.mark.parametrize("changes", [{"share_high": 1.01}, {"rank": 1}])
@pytest.mark.parametrize("reference", ["e1_baseline", CANDIDATE])
def test_certain_is_who_is_told_from_all_others_by_rank_and_interval(
    changes: dict[str, Any], reference: str
) -> None:
    """A ratio to the reference that excludes 1 would say more than the same sentence's doubt."""
    near = replace(SHIPPED, **changes)
    assert says(fastest([REFERENCE, FAST, SHIPPED], reference).sentence, "95% certain")
    sentence = fastest([REFERENCE, FAST, near], reference).sentence
    assert says(sentence, "`candidate` is fastest is not resolved")
    assert "certain" not in sentence
    assert (f"times `{reference}`" in sentence) == (reference != CANDIDATE)
    both = objective([FAST, near], WITHIN.model_copy(update={"slo_ms": 1000.0})).sentence
    assert says(both, "`e7_tuned`", "`candidate`", "not resolved")


def test_the_third_may_be_the_one_that_the_fastest_is_not_told_from() -> None:
    """As one of few rounds, whose interval is wide."""
    wide = replace(compared("e3_workers", 35.0, 3), share_high=1.2)
    sentence = fastest([REFERENCE, FAST, SHIPPED, wide], "e1_baseline").sentence
    assert says(sentence, "`e3_workers` is fastest is not resolved")
    assert "candidate" not in sentence


def test_settings_whose_lead_is_not_resolved_are_not_to_try(snapshot: Snapshot) -> None:
    rows = [REFERENCE, FAST, replace(SHIPPED, share_high=1.01)]
    claim = next_step(with_rows(snapshot, rows))
    assert claim is not None
    assert "exp run" not in claim.sentence


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        (replace(SHIPPED, failed=7), ("failed", "`candidate` (7)")),
        (SILENT, ("Without an answer", "`e2_batching`")),
        (replace(FAST, rank=None, earlier="2026-11-29"), ("earlier run", "`e7_tuned` (2026-11-29)")),
        (replace(SHIPPED, rounds=3), ()),
    ],
)
def test_what_else_must_be_known_is_said(
    snapshot: Snapshot, row: ComparisonRow, parts: tuple[str, ...]
) -> None:
    rows = {one.experiment: one for one in (REFERENCE, SHIPPED, row)}
    found = [one for one in claims(with_rows(snapshot, list(rows.values()))) if one.kind == "doubt"]
    assert [says(one.sentence, *parts) for one in found] == [True] * bool(parts)


def test_few_rounds_errors_and_turns_that_do_not_count_are_said(snapshot: Snapshot) -> None:
    few = with_rows(snapshot, [replace(REFERENCE, rounds=3), replace(SHIPPED, rounds=3)])
    assert says(claims(few)[-1].sentence, "3 rounds")
    wrong = Bound("served", 120.0, "pipeline", 100.0, Ratio(1.2, 1.1, 1.3), is_error=True)
    bounds = dict(snapshot.bounds) | {CANDIDATE: [Bound("pipeline", 100.0), wrong]}
    assert says(claims(replace(snapshot, bounds=bounds))[-1].sentence, "`candidate`", "1.20 (1.10 to 1.30)")
    *others, last = snapshot.results
    void = replace(last, turns=[*last.turns, turn(CANDIDATE, "served", 1.0, void="the machine slept")])
    sentence = claims(replace(snapshot, results=[*others, void]))[-1].sentence
    assert says(sentence, "`candidate`", "1 of 19 turns: the machine slept")


def test_a_roofline_that_a_model_exceeds_is_said_and_causes_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_project()
    write_json(CEILINGS, read_json(CEILINGS) | {"roofline_full_rps": 110.0})
    snapshot = read_snapshot()
    doubts = [claim.sentence for claim in claims(snapshot) if claim.kind == "doubt"]
    [said] = [sentence for sentence in doubts if "roofline" in sentence]
    assert says(said, "full", f"`{CANDIDATE}` (model)", "230 images/s, 2.07")
    assert not any("Errors" in sentence for sentence in doubts)
    assert all(diagnosis.cause for diagnosis in snapshot.diagnoses.values())


@pytest.mark.parametrize(
    ("others", "named"),
    [
        (
            ['{"python3": 0.9, "clamd": 0.2}', '{"clamd": 0.3, "make": 0.1, "ld": 0.01}'],
            "(python3, clamd, make)",
        ),
        (["{}", "{}"], "(not visible from here)"),
    ],
)
def test_who_else_used_the_machine_is_named(snapshot: Snapshot, others: list[str], named: str) -> None:
    columns: dict[str, Any] = {"warnings": "other processes", "other_percent": 23.0}
    turns = [turn(CANDIDATE, "served", 1.0, others=one, **columns) for one in others]
    results = [replace(one, turns=turns if one.name == CANDIDATE else []) for one in snapshot.results]
    [doubt] = [one for one in claims(replace(snapshot, results=results)) if "2 of 2 turns" in one.sentence]
    assert says(doubt.sentence, named, "23%")


def test_a_quota_that_held_processes_back_is_laid_to_nobody_else(snapshot: Snapshot) -> None:
    reason = "a CPU quota held processes back for 0.4 s"
    turns = [turn(CANDIDATE, "served", 1.0, warnings=reason, other_percent=None, steal_percent=None)] * 2
    results = [replace(one, turns=turns if one.name == CANDIDATE else []) for one in snapshot.results]
    [doubt] = [one for one in claims(replace(snapshot, results=results)) if "2 of 2 turns" in one.sentence]
    assert says(doubt.sentence, "quota")
    assert "others used" not in doubt.sentence


def test_emulation_is_said_on_a_machine_that_emulates(snapshot: Snapshot) -> None:
    sentences = [claim.sentence for claim in claims(snapshot)]
    assert not any("bfloat16" in sentence for sentence in sentences)
    plain = MACHINE | {"bfloat16": False}
    emulating = replace(snapshot, results=[replace(one, machine=plain) for one in snapshot.results])
    [claim] = [one for one in claims(emulating) if "bfloat16" in one.sentence]
    named = re.findall("`(e[^`]*)`", claim.sentence)
    assert named == ["e4_half", "e5_timeout", "e6_batch_cap", "e7_tuned"]


@pytest.mark.parametrize(
    ("changes", "parts", "advised"),
    [
        ({}, ("`precision: int8`", "2.00 (1.90 to 2.10)", "at 8 users"), True),
        ({"over_serve_low": 0.9}, ("2.00 (0.90 to 2.10)", "not resolved"), False),
        ({"incumbent": True}, ("nothing faster",), False),
        ({"goal": "capacity"}, ("`precision: int8`", "within the objective"), True),
    ],
)
def test_what_the_search_found_is_what_to_try(
    snapshot: Snapshot, changes: dict[str, Any], parts: tuple[str, ...], advised: bool
) -> None:
    claim = next_step(replace(snapshot, tuned=tuned(**changes)))
    assert claim is not None
    assert says(claim.sentence, *parts)
    assert ("tune --apply" in claim.sentence) is advised


def test_without_a_search_the_fastest_ones_settings_are_to_try_and_the_search(snapshot: Snapshot) -> None:
    claim = next_step(snapshot)
    assert claim is not None
    assert says(claim.sentence, "`dvc exp run -S serve.precision=half`", "`e7_tuned`", "99.7%", "`make tune`")
    best = next_step(with_rows(snapshot, [REFERENCE, replace(SHIPPED, rank=1)]))
    assert best is not None
    assert says(best.sentence, "`make tune`")
    assert "exp run" not in best.sentence
    assert next_step(replace(snapshot, label="HEAD~1")) is None


def test_what_was_applied_is_not_to_try(snapshot: Snapshot) -> None:
    serve = snapshot.params.serve.model_copy(update={"precision": "int8", "max_batch_size": 4})
    applied = replace(snapshot, tuned=tuned(), params=snapshot.params.model_copy(update={"serve": serve}))
    claim = next_step(applied)
    assert claim is not None
    assert "Try" not in claim.sentence


def test_a_search_for_an_api_says_nothing_of_photos() -> None:
    row = replace(WINNER, agreement=None, incumbent=True)
    metrics = {"combinations": 40, "raced": 17, "rounds": 9, "users": 8}
    text = tuned_text(Tuned(metrics, [row], []))
    assert says(text, "40 combinations", WINNER.name, "Fastest at 8 users")
    assert not any(word in text for word in ("photo", "None"))
