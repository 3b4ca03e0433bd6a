"""Whole searches on a made-up machine: what wins, and what is reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import pytest

from litmeter.errors import LitmeterError
from litmeter.kinds.classifier import Classifier
from litmeter.kinds.configuration import Configuration, Host
from litmeter.kinds.lit_api import LitApi, LitApiTuneSettings
from litmeter.load import LoadPlan
from litmeter.measure.turn import MakeReady, Ready, Sample, Turn
from litmeter.params import load_params
from litmeter.report.tables import tune_table
from litmeter.system.files import read_rows, write_rows
from litmeter.tune.rows import TuneRow
from litmeter.tune.search import FEWEST_ROUNDS, Job, Outcome, search
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
SERVE, OWN = Classifier(threads_per_worker=1), LitApi(api="server:MyAPI", threads_per_worker=1)
PART_S = {
    "full": 0.012,
    "half": 0.008,
    "timm": 0.008,
    "torchvision": 0.004,
    "litserve": 0.002,
    "direct": 0.001,
}
Rate = Callable[[Configuration], float]


def true_rps(one: Configuration) -> float:
    """A batch is faster than single images with the direct transport only."""
    batches = 1.1 if one.max_batch_size == 4 and one.transport == "direct" else 1.0
    seconds = PART_S[one.precision] / batches + PART_S[one.preprocess] + PART_S[one.transport]
    return one.workers_per_device / seconds


def equally_fast(one: Configuration) -> float:
    return 100.0 if one.transport == "direct" else 50.0


def job_of(agreement: Rate = lambda one: 1.0, **limits: Any) -> Job:
    params, machine = load_params(ROOT / "params.yaml"), Host("cpu", 2)
    tune = params.tune.model_copy(update={**KNOBS, "max_s": 300.0, **limits})
    objective = params.objective.model_copy(update={"max_s": 60.0})
    return Job(tune, SERVE, params.load, objective, space_of(tune, SERVE, machine), agreement)


def machine_of(job: Job, rps: Rate = true_rps, **given: Any) -> MadeUpMachine:
    """Each worker takes 300 MiB, and above 0.8 of its rate a configuration is late."""
    settings = {one.search_name: one for one in job.configurations}

    def latency_ms(turn: Turn) -> float:
        assert isinstance(turn.load, LoadPlan)
        late = turn.load.rate_rps and turn.load.rate_rps > 0.8 * rps(settings[turn.subject])
        return 500.0 if late else 40.0

    return MadeUpMachine(
        lambda turn: rps(settings[turn.subject]),
        lambda turn: {"memory_mib": 300.0 * settings[turn.subject].workers_per_device},
        latency_ms,
        noise=given.pop("noise", 0.01),
        **given,
    )


def searched(job: Job, **given: Any) -> tuple[Outcome, MadeUpMachine]:
    machine = machine_of(job, **given)
    return machine.run(search(job)), machine


def test_the_fastest_wins_and_every_configuration_is_accounted_for() -> None:
    job = job_of()
    outcome, _ = searched(job)
    best = max(job.space.configurations, key=true_rps)
    assert outcome.winner == best
    assert outcome.rows[0].status == "winner"
    assert outcome.rows[0].rate_rps == pytest.approx(true_rps(best), rel=0.02)
    assert outcome.rows[0].over_serve == pytest.approx(true_rps(best) / true_rps(SERVE), rel=0.03)
    assert len(outcome.rows) + sum(outcome.left_out.values()) == outcome.combinations == 32
    [incumbent] = [row for row in outcome.rows if row.incumbent]
    assert (incumbent.name, incumbent.over_serve, incumbent.status) == (SERVE.search_name, 1.0, "slower")
    assert incumbent.rounds == outcome.rounds


def test_the_winner_is_rated_by_rounds_that_did_not_choose_it() -> None:
    """Of equals the one with most luck leads; turns of later rounds have none of it."""
    job, found_rps = job_of(), list[float]()
    for seed in range(8):
        outcome, machine = searched(job, rps=equally_fast, noise=0.2, seed=seed)
        own = [turn.round for turn in machine.turns if turn.subject == outcome.rows[0].name]
        assert sum(number >= outcome.rounds for number in own) == outcome.fresh_rounds >= FEWEST_ROUNDS
        found_rps.append(outcome.rows[0].rate_rps or 0.0)
    assert geometric_mean(found_rps) == pytest.approx(100.0, rel=0.05)


@pytest.mark.parametrize("share", [0.05, 0.9])
def test_workers_are_tried_as_far_as_they_leave_the_cores_idle_and_pairs_of_keys_that_interact(
    share: float,
) -> None:
    """Batches are worth something only with a timeout and many workers."""
    params, machine = load_params(ROOT / "params.yaml"), Host("cpu", 2)
    tune, serve = LitApiTuneSettings(max_s=300.0, threads_per_worker=(1,), transport=("direct",)), OWN
    job = Job(tune, serve, params.load, params.objective, space_of(tune, serve, machine), None, 2)
    settings = {one.search_name: one for one in job.configurations}

    def rps(one: Configuration) -> float:
        own = min(one.workers, 2 / share) ** 0.5
        return (
            50 * own * (1.3 if one.workers >= 4 and one.max_batch_size == 2 and one.batch_timeout_s else 1.0)
        )

    def cores(turn: Turn) -> dict[str, float]:
        return {"memory_mib": 300.0, "server_cores": min(share * settings[turn.subject].workers, 2.0)}

    made_up = MadeUpMachine(lambda turn: rps(settings[turn.subject]), cores, noise=0.01)
    outcome = made_up.run(search(job))
    tried = {settings[turn.subject].workers for turn in made_up.turns}
    assert max(tried) == (8 if share < 0.5 else 4)
    best = [one for one in job.configurations if one.workers <= max(tried)]
    assert rps(outcome.winner) >= 0.97 * max(map(rps, best))


@pytest.mark.parametrize("max_s", [20.0, 60.0, 140.0])
def test_its_time_is_kept_and_none_of_it_goes_into_a_capacity(max_s: float) -> None:
    for seed in range(3):
        outcome, machine = searched(job_of(max_s=max_s), noise=0.05, seed=seed)
        assert machine.seconds < 1.05 * max_s
        assert outcome.settled or machine.seconds > 0.8 * max_s
        assert outcome.capacity is None
        assert {turn.load.rate_rps for turn in machine.turns if isinstance(turn.load, LoadPlan)} == {None}


def test_the_cheapest_of_those_that_are_as_fast_wins() -> None:
    outcome, _ = searched(job_of(), rps=equally_fast)
    first, *others = [row for row in outcome.rows if row.status in ("winner", "equal", "not resolved")]
    assert (first.memory_mib, first.knobs["transport"]) == (300.0, "direct")
    assert max(row.memory_mib or 0.0 for row in others) == 600.0
    worth = {(row.knob, row.value): row.ratio for row in outcome.knobs}
    assert worth["transport", "litserve"] == pytest.approx(0.5, abs=0.02)
    assert worth["workers x threads", "2x1"] == pytest.approx(1.0, abs=0.03)
    assert ("workers x threads", "1x1") not in worth


def test_configurations_that_violate_a_limit_are_excluded_and_cannot_win() -> None:
    outcome, _ = searched(job_of(max_memory_mib=400.0))
    assert outcome.winner.workers_per_device == 1
    excluded = [row for row in outcome.rows if row.status == "excluded"]
    assert excluded
    assert all(row.knobs["workers_per_device"] == 2 and row.reason for row in excluded)
    outcome, _ = searched(job_of(lambda one: 0.5 if one.precision == "half" else 1.0))
    assert {row.knobs["precision"] for row in outcome.rows} == {"full"}
    with pytest.raises(LitmeterError, match="max_p95_ms"):
        searched(job_of(max_p95_ms=30.0))


def test_a_winner_is_found_where_serve_violates_a_limit() -> None:
    job = job_of(max_memory_mib=400.0)
    outcome, _ = searched(replace(job, serve=SERVE.model_copy(update={"workers_per_device": 2})))
    assert outcome.winner.workers_per_device == 1


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

    def repeated(asked: Turn | MakeReady) -> Sample | Ready:
        expected, answer = next(answers)
        assert asked == expected
        return answer

    again = machine_of(job)
    again.answer = repeated  # type: ignore[method-assign]
    assert again.run(search(job)) == first


def test_a_search_for_an_api_reports_its_knobs_alone(tmp_path: Path) -> None:
    params, machine, tune = load_params(ROOT / "params.yaml"), Host("cpu", 2), LitApiTuneSettings()
    job = Job(tune, OWN, params.load, params.objective, space_of(tune, OWN, machine), None, machine.cores)

    def rps(one: Configuration) -> float:
        waits = 0.8 if one.batch_timeout_s else 1.0
        return waits * min(one.workers_per_device, 2) * one.max_batch_size**0.5 / one.threads_per_worker

    outcome, _ = searched(job, rps=lambda one: 50 * rps(one))
    assert rps(outcome.winner) == max(map(rps, job.space.configurations))
    knobs = {"workers x threads", "max_batch_size", "batch_timeout_s", "transport"}
    assert {row.knob for row in outcome.knobs} == knobs
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
