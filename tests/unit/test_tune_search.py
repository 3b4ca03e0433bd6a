"""Whole searches on a made-up machine: what is measured, who wins, and what is reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from litmeter.errors import LitmeterError
from litmeter.kinds.classifier import Classifier
from litmeter.kinds.configuration import Configuration, Host
from litmeter.kinds.lit_api import LitApi
from litmeter.kinds.workers import WorkerTuneSettings
from litmeter.load import LoadPlan
from litmeter.measure.turn import Sample, Serve, Serving, Turn, Work
from litmeter.params import load_params
from litmeter.report.tables import tune_table
from litmeter.system.files import read_rows, write_rows
from litmeter.tune.rows import TuneRow
from litmeter.tune.search import (
    COST_ROUNDS,
    RACERS,
    Job,
    Outcome,
    search,
    steady,
    subject_of,
)
from litmeter.tune.space import space_of
from tests.support.made_up_machine import MadeUpMachine
from tests.support.project import ROOT

KNOBS: Mapping[str, Any] = {
    "precision": ("full", "half"),
    "compiled": (False,),
    "preprocess": ("timm", "torchvision"),
    "transport": ("litserve", "direct"),
    "workers_per_device": (1, 2),
    "threads_per_worker": (1,),
    "max_batch_size": (1, 4),
    "batch_timeout_s": (0.0,),
    "keep_freed_memory": (False,),
}
"""32 configurations, all of which can run."""
SERVE = Classifier(threads_per_worker=1)
PART_S = {
    "full": 0.012,
    "half": 0.008,
    "timm": 0.008,
    "torchvision": 0.004,
    "litserve": 0.002,
    "direct": 0.001,
}
"""What the parts cost."""


def job_of(agreement: Callable[[Configuration], float] = lambda one: 1.0, **limits: Any) -> Job:
    params = load_params(ROOT / "params.yaml")
    tune = params.tune.model_copy(update={**KNOBS, "max_s": 300.0, **limits})
    machine = Host("cpu", 2)
    objective = params.objective.model_copy(update={"max_s": 60.0})
    space = space_of(tune, SERVE, machine)
    return Job(tune, SERVE, params.load, objective, machine, space, agreement)


def true_rps(one: Configuration) -> float:
    """The rate of a configuration: batches gain a little where they form."""
    batches = 1.1 if one.max_batch_size == 4 and one.transport == "direct" else 1.0
    seconds = PART_S[one.precision] / batches + PART_S[one.preprocess] + PART_S[one.transport]
    return one.workers_per_device / seconds


def machine_of(
    job: Job, rps: Callable[[Configuration], float] = true_rps, memory_mib: float = 300.0, **given: Any
) -> MadeUpMachine:
    """Costs as they are, and served rates as ``rps`` has them."""
    settings = {one.search_name: one for one in job.configurations}
    parts = {subject_of(part): part for part in job.parts}

    def rate_rps(turn: Turn) -> float:
        if turn.subject in settings:
            return rps(settings[turn.subject])
        part = parts[turn.subject]
        if part.work == "request":
            return 100.0
        size = turn.load.batch_size if isinstance(turn.load, Work) else 1
        own = PART_S[part.settings.precision if part.work == "model" else part.settings.preprocess]
        return part.workers / own * (1.1 if part.work == "model" and size == 4 else 1.0)

    def columns(turn: Turn) -> dict[str, float]:
        if turn.subject not in parts:
            one = settings[turn.subject]
            return {"memory_mib": memory_mib * one.workers_per_device}
        transport = parts[turn.subject].settings.transport
        return {"server_cores": 100 * PART_S[transport] - 0.05, "client_cores": 0.05}

    def latency_ms(turn: Turn) -> float:
        if turn.subject not in settings:
            return 1.0
        assert isinstance(turn.load, LoadPlan)
        late = turn.load.rate_rps and turn.load.rate_rps > 0.8 * rps(settings[turn.subject])
        return 500.0 if late else 40.0

    return MadeUpMachine(rate_rps, columns, latency_ms, noise=given.pop("noise", 0.01), **given)


def searched(job: Job, **given: Any) -> tuple[Outcome, MadeUpMachine]:
    machine = machine_of(job, **given)
    return machine.run(search(job)), machine


def by_status(outcome: Outcome) -> dict[str, list[TuneRow]]:
    found: dict[str, list[TuneRow]] = {}
    for row in outcome.rows:
        found.setdefault(row.status, []).append(row)
    return found


def test_the_fastest_wins_and_every_configuration_is_accounted_for() -> None:
    job = job_of()
    outcome, _ = searched(job)
    best = max(job.space.configurations, key=true_rps)
    assert outcome.winner == best
    assert outcome.rows[0].status == "winner"
    assert outcome.rows[0].rate_rps == pytest.approx(true_rps(best), rel=0.02)
    assert outcome.rows[0].over_serve == pytest.approx(true_rps(best) / true_rps(SERVE), rel=0.03)
    assert outcome.prediction_error < 0.1
    assert len(outcome.rows) + sum(outcome.left_out.values()) == outcome.combinations == 32
    [incumbent] = [row for row in outcome.rows if row.incumbent]
    assert (incumbent.name, incumbent.over_serve, incumbent.rounds) == (
        SERVE.search_name,
        1.0,
        outcome.rounds,
    )
    assert incumbent.status == "slower"


@pytest.mark.parametrize("max_s", [60.0, 90.0, 140.0, 300.0])
def test_its_time_is_kept_and_none_of_it_goes_into_a_capacity(max_s: float) -> None:
    """Each turn takes half as long again as it should."""
    for seed in range(3):
        outcome, machine = searched(job_of(max_s=max_s), noise=0.05, seed=seed)
        assert machine.seconds < 1.1 * max_s
        assert outcome.settled or machine.seconds > 0.8 * max_s
        assert outcome.capacity is None
        assert (len(outcome.rows) >= RACERS) == (outcome.left_out.get("no time for it", 0) == 0)
        assert {turn.load.rate_rps for turn in machine.turns if isinstance(turn.load, LoadPlan)} == {None}


def test_costs_are_measured_in_interleaved_rounds() -> None:
    _, machine = searched(job_of())
    costs = [turn for turn in machine.turns if turn.note == "costs"]
    rounds = [
        [(turn.subject, turn.load) for turn in costs if turn.round == number] for number in range(COST_ROUNDS)
    ]
    assert [turn.round for turn in costs] == sorted(turn.round for turn in costs)
    assert all(sorted(map(str, one)) == sorted(map(str, rounds[0])) for one in rounds)
    assert rounds[1] == rounds[0][::-1]


def test_neither_a_slow_round_nor_a_slow_moment_changes_the_costs() -> None:
    """The second of four rounds is 1.4 times as slow, and one of five parts three times in the last."""
    true = np.array([0.01, 0.02, 0.03, 0.05, 0.08])
    seconds = np.outer(true, [1.0, 1.4, 1.0, 1.0])
    seconds[2, 3] *= 3.0
    found = np.array(steady(seconds.tolist())) / true
    assert found.max() / found.min() < 1.02
    assert steady([[0.02]]) == pytest.approx([0.02])
    assert steady([]) == []


def test_a_short_search_takes_one_round_of_costs() -> None:
    _, machine = searched(job_of(max_s=20.0))
    assert {turn.round for turn in machine.turns if turn.note == "costs"} == {0}


def test_parts_that_find_no_memory_together_are_measured_in_groups() -> None:
    job = job_of()
    outcome, machine = searched(job, places=4)
    assert {turn.subject for turn in machine.turns if turn.note == "costs"} == set(map(subject_of, job.parts))
    assert outcome.winner == max(job.space.configurations, key=true_rps)


def test_configurations_whose_part_does_not_start_are_left_out() -> None:
    job = job_of()
    failed = next(part for part in job.parts if part.work == "model" and part.settings.precision == "half")
    outcome, machine = searched(job, broken=frozenset({subject_of(failed)}))
    assert outcome.winner.precision == "full"
    without = [one for one in job.space.configurations if failed.name in one.part_names()]
    assert len(without) in outcome.left_out.values()
    assert {turn.subject for turn in machine.turns}.isdisjoint(one.search_name for one in without)
    with pytest.raises(LitmeterError, match="does not start"):
        searched(job, broken=frozenset({subject_of(job.parts[0])}))


def test_the_best_is_found_where_predictions_miss_a_knob() -> None:
    """Two workers are three times as slow as predicted: the best is a neighbour of who was predicted best."""

    def rps(one: Configuration) -> float:
        return true_rps(one) / (1 if one.workers_per_device == 1 else 3)

    job = job_of(max_s=400.0)
    outcome, _ = searched(job, rps=rps)
    assert rps(outcome.winner) == max(map(rps, job.space.configurations))
    assert outcome.prediction_error > 0.3


def equally_fast(one: Configuration) -> float:
    return 100.0 if one.transport == "direct" else 50.0


def test_the_cheapest_of_those_that_are_as_fast_wins() -> None:
    outcome, _ = searched(job_of(), rps=equally_fast)
    first, *others = [row for row in outcome.rows if row.status in ("winner", "equal", "not resolved")]
    assert (first.memory_mib, first.knobs["transport"]) == (300.0, "direct")
    assert max(row.memory_mib or 0.0 for row in others) == 600.0
    worth = {(row.knob, row.value): row for row in outcome.knobs}
    assert worth["transport", "litserve"].ratio == pytest.approx(0.95, abs=0.02)
    assert worth["transport", "litserve"].source == "predicted"
    assert worth["workers x threads", "2x1"].source == "measured"
    assert worth["workers x threads", "2x1"].ratio == pytest.approx(1.0, abs=0.03)
    assert ("workers x threads", "1x1") not in worth


def test_who_breaks_a_limit_is_excluded_and_cannot_win() -> None:
    outcome, _ = searched(job_of(max_memory_mib=400.0))
    assert outcome.winner.workers_per_device == 1
    assert all(row.knobs["workers_per_device"] == 2 and row.reason for row in by_status(outcome)["excluded"])
    outcome, _ = searched(job_of(lambda one: 0.5 if one.precision == "half" else 1.0))
    assert outcome.winner.precision == "full"
    assert all(row.knobs["precision"] == "full" for row in outcome.rows)
    with pytest.raises(LitmeterError, match="max_p95_ms"):
        searched(job_of(max_p95_ms=30.0))


def test_by_capacity_the_cheapest_of_those_whose_intervals_overlap_wins() -> None:
    outcome, _ = searched(job_of(goal="capacity"), rps=equally_fast, seed=2)  # by chance, some differ
    assert outcome.capacity is not None
    assert outcome.capacity.capacity_rps == pytest.approx(80.0, rel=0.1)
    first, *others = [row for row in outcome.rows if row.capacity_rps]
    assert [first.status, *(row.status for row in others)] == ["winner", "equal", "equal"]
    assert first.memory_mib == min(row.memory_mib or 0.0 for row in (first, *others))


def test_a_search_repeats_its_decisions_from_what_it_was_answered() -> None:
    job = job_of()
    first, machine = searched(job, noise=0.05)
    answers = iter(machine.log)

    def repeated(asked: Turn | Serve) -> Sample | Serving:
        expected, answer = next(answers)
        assert asked == expected
        return answer

    again = machine_of(job)
    again.answer = repeated  # type: ignore[method-assign]
    assert again.run(search(job)) == first


OWN = LitApi(api="server:MyAPI")
ITEM_S = {1: 0.010, 2: 0.006, 4: 0.004, 8: 0.003}
"""In a worker of one thread; with two it takes three quarters of the time, on two cores."""
REQUEST_S, OF_WORKER_S = 0.001, 0.0004


def job_of_api(unavailable: str = "") -> Job:
    params, machine = load_params(ROOT / "params.yaml"), Host("cpu", 2, unavailable=unavailable)
    objective = params.objective.model_copy(update={"max_s": 30.0})
    tune = WorkerTuneSettings(max_s=600.0)
    space = space_of(tune, OWN, machine)
    return Job(tune, OWN, params.load, objective, machine, space, None)


def item_s(one: Configuration, size: int) -> float:
    return ITEM_S[size] * (1 if one.threads_per_worker == 1 else 0.75)


def cpu_s(one: Configuration, size: int) -> float:
    return item_s(one, size) * (one.threads_per_worker or 2)


def served_rps(one: Configuration) -> float:
    """As the costs have it, but that a wait for a batch costs more."""
    pipeline, request = one.part_names()
    costs = {
        pipeline: {size: item_s(one, size) for size in ITEM_S},
        f"{pipeline}: CPU time": {size: cpu_s(one, size) for size in ITEM_S},
        request: {1: REQUEST_S},
        f"{request}: CPU time": {1: OF_WORKER_S},
    }
    return one.predicted_rps(costs, Host("cpu", 2), 8) * (0.8 if one.batch_timeout_s else 1.0)


def searched_for_api(job: Job) -> tuple[Outcome, MadeUpMachine]:
    settings = {one.search_name: one for one in job.configurations}
    parts = {subject_of(part): part for part in job.parts}

    def rate_rps(turn: Turn) -> float:
        if turn.subject in settings:
            return served_rps(settings[turn.subject])
        part = parts[turn.subject]
        return (
            part.workers / item_s(part.settings, turn.load.batch_size)
            if isinstance(turn.load, Work)
            else 900.0
        )

    def columns(turn: Turn) -> dict[str, float]:
        if turn.subject in settings:
            return {"memory_mib": 100.0 * settings[turn.subject].workers_per_device}
        if isinstance(turn.load, Work):
            return {"workers_cpu_ms": 1000 * cpu_s(parts[turn.subject].settings, turn.load.batch_size)}
        return {
            "server_cores": 900 * REQUEST_S - 0.1,
            "client_cores": 0.1,
            "workers_cpu_ms": 1000 * OF_WORKER_S,
        }

    machine = MadeUpMachine(rate_rps, columns, lambda turn: 20.0, noise=0.01)
    return machine.run(search(job)), machine


def test_a_search_for_an_api_predicts_by_its_pipeline_and_reports_its_knobs_alone(tmp_path: Path) -> None:
    job = job_of_api()
    outcome, _ = searched_for_api(job)
    assert served_rps(outcome.winner) >= 0.97 * max(map(served_rps, job.space.configurations))
    assert outcome.prediction_error is not None
    assert outcome.prediction_error < 0.2
    knobs = {"workers x threads", "max_batch_size", "batch_timeout_s", "transport"}
    assert {row.knob for row in outcome.knobs} <= knobs
    assert {(*row.knobs, row.agreement) for row in outcome.rows} == {(*OWN.knobs, None)}
    head, rows = tune_table(outcome.rows)
    assert "agreement" not in head
    assert {len(row) for row in rows} == {len(head)}
    write_rows(tmp_path / "tune.csv", TuneRow, outcome.rows)
    read = read_rows(tmp_path / "tune.csv", TuneRow)
    texts = [
        {key: str(value) for key, value in row.knobs.items() if value is not None} for row in outcome.rows
    ]
    assert [row.knobs for row in read] == texts
    assert [replace(row, knobs={}) for row in read] == [replace(row, knobs={}) for row in outcome.rows]


def test_where_nothing_runs_in_process_a_race_alone_decides() -> None:
    job = job_of_api("stream")
    outcome, machine = searched_for_api(job)
    assert {turn.subject for turn in machine.turns} <= {one.search_name for one in job.configurations}
    assert served_rps(outcome.winner) >= 0.97 * max(map(served_rps, job.space.configurations))
    assert len(outcome.rows) >= RACERS
    assert outcome.prediction_error is None
    assert {row.predicted_rps for row in outcome.rows} == {None}
    assert {row.source for row in outcome.knobs} == {"measured"}
    assert "predicted" not in tune_table(outcome.rows)[0]
    assert len(outcome.rows) + sum(outcome.left_out.values()) == outcome.combinations + 1  # and serve:
