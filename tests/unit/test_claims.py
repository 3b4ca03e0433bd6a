"""Claims: figures, names and keys in sentences, whose wording recorded runs keep."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from litmeter.classifier.model.rows import Ceilings
from litmeter.kinds.lit_api import LitApi
from litmeter.measure.capacity import CapacityResult
from litmeter.measure.comparison_rows import OverBefore
from litmeter.measure.rows import ComparisonRow
from litmeter.params import ObjectiveSettings
from litmeter.paths import CEILINGS
from litmeter.report.claims import (
    carried,
    claims,
    fastest,
    first_pieces,
    next_step,
    objective,
    tuned_text,
    verdict,
)
from litmeter.report.diagnosis import Bound
from litmeter.report.snapshot import Snapshot, Tuned, read_snapshot
from litmeter.say.tables import significant
from litmeter.settings import CANDIDATE
from litmeter.stats.ratios import Ratio
from litmeter.system.files import read_json, write_json
from tests.support.capacity import CAPACITY
from tests.support.results_project import write_project
from tests.support.search import METRICS, WINNER, tuned
from tests.support.synthetic_results import MACHINE, compared, result, turn, with_change

REFERENCE = compared("e1_baseline", 20.0, 3, p95_ms=400.0)
FAST = compared("e7_tuned", 60.0, 1, p95_ms=700.0)
SHIPPED = compared(CANDIDATE, 40.0, 2, p95_ms=300.0)
SILENT = compared("e2_batching", None, None, p95_ms=None)
FEW_ANSWERS: dict[str, Any] = dict.fromkeys(("p50_ms", "p95_ms", "objective_ms"))
WITHIN = ObjectiveSettings(
    slo_ms=500.0, miss=0.05, configurations=(CANDIDATE,), tolerance=0.1, max_s=60.0, seed=1
)
NAME = re.compile("`([^`]+)`")


def says(sentence: str, *parts: str) -> bool:
    return all(part in sentence for part in parts)


def of_kind(snapshot: Snapshot, kind: str) -> list[str]:
    return [claim.sentence for claim in claims(snapshot) if claim.kind == kind]


def with_rows(snapshot: Snapshot, *rows: ComparisonRow) -> Snapshot:
    """The snapshot with these rows, without other configurations."""
    by_name = {row.experiment: row for row in rows}
    results = [replace(one, compared=by_name[one.name]) for one in snapshot.results if one.name in by_name]
    return replace(snapshot, results=results)


def try_next(snapshot: Snapshot) -> str:
    claim = next_step(snapshot)
    assert claim is not None
    return claim.sentence


def test_the_fastest_has_its_rate_and_its_ratios_to_the_reference_and_the_second() -> None:
    sentence = fastest([REFERENCE, FAST, SHIPPED], "e1_baseline").sentence
    assert NAME.findall(sentence) == ["e7_tuned", "e1_baseline", CANDIDATE]
    assert says(sentence, "95% certain", "60.0", "3.00 (2.85 to 3.15)", "8 users", "1.50 (1.46 to 1.55)")


@pytest.mark.parametrize("reference", ["e1_baseline", CANDIDATE])
def test_a_lead_over_one_of_the_same_rank_is_not_certain(reference: str) -> None:
    """A ratio to a tied reference that excludes 1 would contradict the doubt."""
    near = replace(SHIPPED, rank=1)
    sentence = fastest([REFERENCE, FAST, near], reference).sentence
    assert says(sentence, "`candidate`", "not resolved")
    assert "certain" not in sentence
    assert (f"times `{reference}`" in sentence) == (reference != CANDIDATE)
    both = objective([FAST, near], WITHIN.model_copy(update={"slo_ms": 1000.0})).sentence
    assert says(both, "`e7_tuned`", "`candidate`", "not resolved")


def test_the_third_may_be_tied_with_the_fastest_where_the_second_is_not() -> None:
    wide = replace(compared("e3_workers", 35.0, 1), share_high=1.2)
    sentence = fastest([REFERENCE, FAST, SHIPPED, wide], "e1_baseline").sentence
    assert NAME.findall(sentence) == ["e7_tuned", "e1_baseline", "e3_workers"]


def test_without_a_ranked_second_nothing_is_certain() -> None:
    alone = fastest([replace(REFERENCE, rank=1), SILENT], "e1_baseline").sentence
    assert not any(word in alone for word in ("certain", "times"))
    assert NAME.findall(fastest([SILENT], "e1_baseline").sentence) == []


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


def test_the_effect_of_changed_settings_comes_first(snapshot: Snapshot) -> None:
    assert of_kind(snapshot, "change") == []
    over = OverBefore(
        ratio=1.02, low=0.97, high=1.07, changes={"max_batch_size": (4, 8)}, p95_ms=(65.2, 66.1)
    )
    first = claims(with_change(snapshot, over))[0].sentence
    assert says(first, "max_batch_size 4 -> 8", "1.02 (0.97 to 1.07)", "no difference", "p95 65 -> 66 ms")
    unknown = over.model_copy(update={"p95_ms": (65.2, None)})
    assert "p95" not in claims(with_change(snapshot, unknown))[0].sentence


def test_the_fastest_ones_cause_has_its_loss(snapshot: Snapshot) -> None:
    diagnosis = snapshot.diagnoses["e7_tuned"]
    assert isinstance(diagnosis.loss, Bound)
    [sentence] = of_kind(snapshot, "limit")
    assert says(sentence, "`e7_tuned`", diagnosis.cause, significant(diagnosis.loss.rate_rps))
    unknown = {**snapshot.diagnoses, "e7_tuned": replace(diagnosis, cause="")}
    assert of_kind(replace(snapshot, diagnoses=unknown), "limit") == []


@pytest.mark.parametrize(("window_s", "users"), [(0.05, 2), (0.05, 8), (0.0, 2)])
def test_the_wait_for_a_batch_to_fill_is_no_transport(window_s: float, users: int) -> None:
    """Eight users fill a batch of eight."""
    serve = LitApi(api="server:Chat", max_batch_size=8, batch_timeout_s=window_s)
    own = result(serve=serve, in_process={"stream": {"first_p50_ms": 20.0}})
    row = replace(own.compared, stream={"first_p50_ms": 75.0}, users=users)
    [claim] = first_pieces([replace(own, compared=row)])
    assert says(claim.sentence, "75.0 ms", "20.0 ms", "55.0 ms", "transport")
    assert ("up to 50.0 ms (`batch_timeout_s`)" in claim.sentence) is (users == 2 and window_s > 0)


def test_ratios_between_forms_of_a_request_are_pointed_out(snapshot: Snapshot) -> None:
    [said] = of_kind(snapshot, "form")
    assert says(said, "5 others", "base64")
    assert NAME.findall(said) == ["e7_tuned", "e1_baseline"]
    # HTTP process and manager take 1.5 ms, of all that two cores do for a request.
    rates = [one.compared.rate_rps or 0.0 for one in snapshot.results if one.serve.transport == "litserve"]
    shares = [float(number) for number in re.findall(r"([\d.]+)%", said)]
    assert shares == pytest.approx([100 * 1.5 * end(rates) / 2000 for end in (min, max)], rel=0.1, abs=0.05)
    load = snapshot.params.load.model_copy(update={"request_body": "json"})
    assert carried(replace(snapshot, params=snapshot.params.model_copy(update={"load": load}))) is None
    for transport in ("direct", "litserve"):
        alike = [one for one in snapshot.results if one.serve.transport == transport]
        assert carried(replace(snapshot, results=alike)) is None


def test_the_fastest_and_the_candidate_have_their_capacities(snapshot: Snapshot) -> None:
    assert of_kind(snapshot, "capacity") == []
    known = dict.fromkeys(["e1_baseline", CANDIDATE, "e7_tuned"], CapacityResult(CAPACITY, [], None))
    first, second = of_kind(replace(snapshot, capacities=known), "capacity")
    assert says(first, "`e7_tuned`", "290 to 310", "1,000 a second", "4 machines", "5 with one spare")
    assert says(second, "`candidate`", "290 to 310")


def test_the_fastest_within_the_objective_may_be_another() -> None:
    assert says(objective([REFERENCE, FAST, SHIPPED], WITHIN).sentence, "`candidate`, 300 ms.")
    equal = [replace(row, objective_ms=300.0) for row in (FAST, replace(SHIPPED, rank=1))]
    both = objective([REFERENCE, *equal], WITHIN).sentence
    assert says(both, "`e7_tuned`, 300 ms", "`candidate`, 300 ms", "not resolved")


@pytest.mark.parametrize("changes", [{"failed": 7}, FEW_ANSWERS, {"objective_ms": 501.0}])
def test_failures_and_latencies_above_or_unknown_miss_the_objective(changes: dict[str, Any]) -> None:
    row = replace(SHIPPED, rank=1, **changes)
    assert NAME.findall(objective([REFERENCE, row], WITHIN).sentence) == ["e1_baseline"]
    assert NAME.findall(objective([row], WITHIN).sentence) == []


@pytest.mark.parametrize(("miss", "percent"), [(0.05, "p95"), (0.01, "p99"), (0.001, "p99.9"), (0.5, "p50")])
def test_the_objective_is_of_the_percentile_that_its_miss_asks_for(miss: float, percent: str) -> None:
    """A p95 below the objective does not count for a miss of 1%."""
    asked = WITHIN.model_copy(update={"miss": miss})
    late, unknown = replace(FAST, p95_ms=300.0, objective_ms=700.0), replace(SHIPPED, **FEW_ANSWERS)
    for rows in ([REFERENCE, late, SHIPPED], [late], [unknown]):
        sentence = objective(rows, asked).sentence
        assert f"{percent} below 500 ms" in sentence
        assert "`e7_tuned`" not in sentence
    assert ("662 answers" in objective([unknown], asked).sentence) is (miss == 0.01)


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        (replace(SHIPPED, failed=7), ["`candidate` (7)"]),
        (SILENT, ["`e2_batching`"]),
        (replace(FAST, rank=None, earlier="2026-11-29"), ["`e7_tuned` (2026-11-29)"]),
        (SHIPPED, []),
    ],
)
def test_failures_silence_and_earlier_rows_are_doubts(
    snapshot: Snapshot, row: ComparisonRow, parts: Sequence[str]
) -> None:
    rows = {one.experiment: one for one in (REFERENCE, SHIPPED, row)}
    found = of_kind(with_rows(snapshot, *rows.values()), "doubt")
    assert [says(one, *parts) for one in found] == [True] * bool(parts)


def test_few_rounds_errors_and_void_turns_are_doubts(snapshot: Snapshot) -> None:
    wide = replace(SHIPPED, rounds=3, ratio_low=0.8 * SHIPPED.ratio, ratio_high=1.2 * SHIPPED.ratio)
    few = with_rows(snapshot, replace(REFERENCE, rounds=3), wide)
    assert "3 rounds" in of_kind(few, "doubt")[-1]
    narrow = with_rows(snapshot, replace(REFERENCE, rounds=3), replace(SHIPPED, rounds=3))
    assert not any("3 rounds" in said for said in of_kind(narrow, "doubt"))
    wrong = Bound("served", 120.0, "pipeline", 100.0, Ratio(1.2, 1.1, 1.3), is_error=True)
    bounds = dict(snapshot.bounds) | {CANDIDATE: [Bound("pipeline", 100.0), wrong]}
    said = of_kind(replace(snapshot, bounds=bounds), "doubt")[-1]
    assert says(said, "`candidate`", "1.20 (1.10 to 1.30)")
    *others, last = snapshot.results
    void = replace(last, turns=[*last.turns, turn(CANDIDATE, "served", 1.0, void="the machine slept")])
    said = of_kind(replace(snapshot, results=[*others, void]), "doubt")[-1]
    assert says(said, "`candidate`", "1 of 19 turns: the machine slept")


def test_a_roofline_that_a_model_exceeds_is_a_doubt_and_causes_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_project()
    known = Ceilings.model_validate(read_json(CEILINGS))
    write_json(CEILINGS, known.with_rooflines({"full": 110.0}).model_dump())
    snapshot = read_snapshot()
    [said] = [sentence for sentence in of_kind(snapshot, "doubt") if "roofline" in sentence]
    assert says(said, "full", f"`{CANDIDATE}` (model)", "230 images/s", "2.07")
    assert not any(bound.is_error for bounds in snapshot.bounds.values() for bound in bounds)
    assert all(diagnosis.cause for diagnosis in snapshot.diagnoses.values())


@pytest.mark.parametrize(
    ("others", "percent", "named"),
    [
        (
            [{"python3": 0.9, "clamd": 0.2}, {"clamd": 0.3, "make": 0.1, "ld": 0.01}],
            23.0,
            "python3, clamd, make",
        ),
        ([{}, {}], 23.0, "not visible"),
        ([{}, {}], None, "a CPU quota"),
    ],
)
def test_disturbances_are_attributed(
    snapshot: Snapshot, others: list[dict[str, float]], percent: float | None, named: str
) -> None:
    turns = [
        turn(CANDIDATE, "served", 1.0, others=used, warnings="a CPU quota", other_percent=percent)
        for used in others
    ]
    results = [replace(one, turns=turns if one.name == CANDIDATE else []) for one in snapshot.results]
    [doubt] = [one for one in of_kind(replace(snapshot, results=results), "doubt") if "2 of 2 turns" in one]
    assert named in doubt
    assert ("23%" in doubt) is (percent is not None)


def test_emulation_is_a_doubt_on_a_machine_that_emulates(snapshot: Snapshot) -> None:
    assert not any("bfloat16" in sentence for sentence in of_kind(snapshot, "doubt"))
    machine = MACHINE | {"bfloat16": False}
    emulating = replace(snapshot, results=[replace(one, machine=machine) for one in snapshot.results])
    [sentence] = [one for one in of_kind(emulating, "doubt") if "bfloat16" in one]
    assert NAME.findall(sentence) == ["e4_half", "e5_timeout", "e6_batch_cap", "e7_tuned"]


@pytest.mark.parametrize(
    ("changes", "parts", "advised"),
    [
        ({}, ("`precision: int8`", "2.00 (1.90 to 2.10)", "at 8 users"), True),
        ({"users": 1}, ("`precision: int8`", "2.00 (1.90 to 2.10)", "at 1 user;"), True),
        ({"over_serve_low": 0.9}, ("2.00 (0.90 to 2.10)", "not resolved"), False),
        ({"incumbent": True}, (), False),
        ({"goal": "capacity"}, ("`precision: int8`", "objective"), True),
    ],
)
def test_the_winner_of_a_search_is_what_to_try(
    snapshot: Snapshot, changes: dict[str, Any], parts: tuple[str, ...], advised: bool
) -> None:
    sentence = try_next(replace(snapshot, tuned=tuned(**changes)))
    assert says(sentence, *parts)
    assert ("tune --apply" in sentence) is advised


def test_a_winner_that_was_applied_is_not_to_try(snapshot: Snapshot) -> None:
    serve = snapshot.params.serve.model_copy(update={"precision": "int8", "max_batch_size": 4})
    params = snapshot.params.model_copy(update={"serve": serve})
    assert "tune --apply" not in try_next(replace(snapshot, tuned=tuned(), params=params))


def test_without_a_search_the_fastest_ones_settings_are_to_try_if_they_are_faster(snapshot: Snapshot) -> None:
    said = try_next(snapshot)
    assert says(said, "`dvc exp run -S serve.precision=half`", "`e7_tuned`", "99.7%", "`make tune`")
    for shipped in (replace(SHIPPED, rank=1), replace(SHIPPED, share_high=1.01)):
        said = try_next(with_rows(snapshot, REFERENCE, FAST, shipped))
        assert "`make tune`" in said
        assert "exp run" not in said
    assert next_step(replace(snapshot, label="HEAD~1")) is None


def test_a_search_for_an_api_says_nothing_of_photos() -> None:
    row = replace(WINNER, agreement=None, incumbent=True)
    text = tuned_text(Tuned(METRICS, [row], []))
    assert says(text, "40 combinations", WINNER.name, "8 users")
    assert not any(word in text for word in ("photo", "None"))
