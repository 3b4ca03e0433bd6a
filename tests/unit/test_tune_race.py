"""A race: who is eliminated, who is equal, and that it finds the best on surfaces of known rates."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from litmeter.errors import ServerError
from litmeter.kinds.classifier import Classifier
from litmeter.kinds.configuration import Configuration
from litmeter.measure.rounds import turn_plan
from litmeter.measure.turn import Turn
from litmeter.params import load_params
from litmeter.tune.search import FEWEST_ROUNDS, Race, Racer, finalists, race
from tests.support.made_up_machine import MadeUpMachine
from tests.support.project import ROOT

PARAMS = load_params(ROOT / "params.yaml")
PLAN = turn_plan(8, PARAMS.load.timeout_s, PARAMS.load.seed, 0)
SEEDS = 12
NOISE = 0.065
"""Of a turn, in logarithms: 4% of a window of four seconds, for one and a half."""
LETTERS = {letter: Classifier(max_batch_size=size) for size, letter in enumerate("sabcdef", 1)}
NAMES = {letter: settings.search_name for letter, settings in LETTERS.items()}


def racer(letter: str, **given: Any) -> Racer:
    return Racer(LETTERS[letter], **{"predicted_rps": 1.0, "agreement": 1.0} | given)


def raced(
    rates: Mapping[str, float | Sequence[float]],
    max_s: float = 60.0,
    neighbours: Sequence[Racer] = (),
    limits: Mapping[str, float] = {},
    **machine: Any,
) -> tuple[Race, MadeUpMachine]:
    """A race of racers with these rates, or rates by round; "s" is the reference."""
    letters = {name: letter for letter, name in NAMES.items()}

    def rate_rps(turn: Turn) -> float:
        own = rates[letters[turn.subject]]
        return own if isinstance(own, float) else own[turn.round]

    tune = PARAMS.tune.model_copy(update=dict(limits))
    racing, made_up = Race(tune), MadeUpMachine(rate_rps, **machine)
    later = {one.name for one in neighbours}
    racing.join([racer(letter) for letter in rates if NAMES[letter] not in later])
    made_up.run(race(racing, PLAN, max_s, lambda leader: neighbours))
    return racing, made_up


def left(racing: Race) -> dict[str, int]:
    """After how many rounds racers were eliminated."""
    letters = {name: letter for letter, name in NAMES.items()}
    found = {letters[name]: one.eliminated_after_rounds for name, one in racing.racers.items()}
    return {letter: rounds for letter, rounds in found.items() if rounds is not None}


def test_who_is_slower_beyond_doubt_is_eliminated_and_the_reference_goes_on() -> None:
    racing, machine = raced({"s": 70.0, "a": 100.0, "b": 99.0, "c": 80.0}, 200.0, noise=0.02)
    assert {"s", "c"} <= left(racing).keys() <= {"s", "c", "b"}
    assert FEWEST_ROUNDS <= left(racing)["c"] < racing.rounds
    assert racing.leader == NAMES["a"]
    last = [turn.subject for turn in machine.turns if turn.round == racing.rounds - 1]
    assert NAMES["s"] in last
    assert NAMES["c"] not in machine.ready
    own = racing.ratio(NAMES["a"], NAMES["s"])
    assert own is not None
    assert own.low is not None
    assert 1.3 < own.low < own.ratio < 1.6


def test_every_second_round_has_the_reverse_order() -> None:
    _, machine = raced(dict.fromkeys("sabc", 100.0), noise=0.1)
    orders = [
        [turn.subject for turn in machine.turns if turn.round == number] for number in range(FEWEST_ROUNDS)
    ]
    assert orders[1] == orders[0][::-1]
    assert orders[3] == orders[2][::-1]
    assert orders[0] != orders[2]


def test_who_is_far_behind_leaves_after_two_rounds_and_who_never_answers_too() -> None:
    near = [70.0, 59.0, *[90.0] * 20]
    racing, _ = raced({"s": 100.0, "a": 55.0, "b": 0.0, "c": near}, max_s=60.0, noise=0.001)
    assert {letter: rounds for letter, rounds in left(racing).items() if rounds == 2} == {"a": 2, "b": 2}
    assert racing.ratio(NAMES["b"], NAMES["s"]) is None


def test_a_reference_that_does_not_answer_is_an_error() -> None:
    with pytest.raises(ServerError, match=r"^serve: "):
        raced({"s": 0.0, "a": 100.0})


def test_a_machine_that_slows_down_decides_nothing() -> None:
    slow = [50.0 if number % 3 == 0 else 100.0 for number in range(100)]
    racing, machine = raced({"s": slow, "a": slow, "b": slow}, max_s=500.0, noise=0.02, seed=1)
    assert left(racing) == {}
    assert racing.settled()
    assert machine.seconds < 400  # the equals end it


def test_who_breaks_a_constraint_eliminates_nobody() -> None:
    def columns(turn: Turn) -> dict[str, float]:
        return {"memory_mib": 900.0 if turn.subject == NAMES["a"] else 300.0}

    def latency_ms(turn: Turn) -> float:
        return 90.0 if turn.subject == NAMES["b"] else 20.0

    limits = {"max_memory_mib": 600.0, "max_p95_ms": 50.0}
    rates = {"s": 80.0, "a": 200.0, "b": 150.0, "c": 90.0}
    racing, _ = raced(rates, limits=limits, noise=0.01, columns=columns, latency_ms=latency_ms)
    assert racing.remaining == [NAMES["c"]]
    assert left(racing) == {"a": 1, "b": FEWEST_ROUNDS, "s": FEWEST_ROUNDS}
    assert "memory" in racing.racers[NAMES["a"]].constraint_violation
    assert "p95" in racing.racers[NAMES["b"]].constraint_violation


def test_who_finds_no_memory_races_as_soon_as_others_have_left() -> None:
    rates = {"s": 100.0, "a": 50.0, "b": 100.0, "c": 120.0}
    racing, machine = raced(rates, max_s=100.0, places=3, noise=0.01)
    assert min(turn.round for turn in machine.turns if turn.subject == NAMES["c"]) == 2
    assert racing.leader == NAMES["c"]
    racing, _ = raced({**rates, "a": 100.0}, max_s=60.0, places=3, noise=0.01)
    assert [name for name, one in racing.racers.items() if one.out_of_memory] == [NAMES["c"]]


def test_neighbours_of_the_leader_race_where_there_is_time() -> None:
    rates = {"s": 100.0, "a": 110.0, "b": 150.0, "c": 10.0}
    near = [racer("b"), racer("c")]
    racing, _ = raced(rates, max_s=200.0, neighbours=near, noise=0.01)
    assert racing.leader == NAMES["b"]
    own = racing.ratio(NAMES["b"], NAMES["a"])
    assert own is not None
    assert own.ratio == pytest.approx(150 / 110, abs=0.05)
    racing, _ = raced(rates, max_s=25.0, neighbours=near, noise=0.01)
    assert NAMES["b"] not in racing.racers


KNOBS = ((0, 1),) * 5 + (tuple(range(6)), (1, 2, 4, 8), (0, 2, 10, 50))
WORKERS = [0, np.log(1.35), np.log(1.2), np.log(0.4), np.log(0.6), np.log(0.7)]
BATCH = {1: np.log(0.78), 2: np.log(0.96), 4: 0.0, 8: np.log(0.97)}
TIMEOUT = {0: 0.0, 2: np.log(0.97), 10: np.log(0.85), 50: np.log(0.5)}
POINTS = list(itertools.product(*KNOBS))


def surface(seed: int) -> npt.NDArray[np.float64]:
    """Logarithms of the rates of 3,072 configurations whose knobs depend on each other."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(1, 0.25, 8)
    rates = [
        weight[0] * half * np.log(1.7 if compiled else 1.2)
        + weight[1] * compiled * np.log(1.8)
        + weight[2] * preprocess * np.log(1.1)
        + weight[3] * direct * np.log(1.15)
        + weight[4] * keep * (0 if compiled else np.log(1.15))
        + weight[5] * WORKERS[workers]
        + weight[6] * BATCH[batch]
        + weight[7] * TIMEOUT[timeout] * (1 if batch > 1 else 0.05)
        for half, compiled, preprocess, direct, keep, workers, batch, timeout in POINTS
    ]
    return np.array(rates) + rng.normal(0, 0.03, len(rates))


def settings_at(number: int) -> Configuration:
    half, compiled, scaled, direct, keep, workers, batch, timeout = POINTS[number]
    return Classifier(
        precision="half" if half else "full",
        compiled=bool(compiled),
        preprocess="scaled" if scaled else "torchvision",
        transport="direct" if direct else "litserve",
        keep_freed_memory=bool(keep),
        workers_per_device=1 + workers,
        threads_per_worker=1,
        max_batch_size=batch,
        batch_timeout_s=timeout / 1000,
    )


def rate_lost(seed: int, error: float) -> float:
    """What the winner of a race of the 16 best by prediction, and neighbours, lacks of the best rate.

    Half of the variance of the predictions' ``error`` is common to all that share precision, compiling,
    preprocessing and transport, as costs are measured by part. The machine changes its speed by 1.4, and the
    race takes 9 minutes.
    """
    truth, rng = surface(seed), np.random.default_rng(1000 + seed)
    part = np.repeat(rng.normal(0, error, 16), len(truth) // 16)
    predicted = np.exp(truth + (part + rng.normal(0, error, len(truth))) / np.sqrt(2))
    numbers = {settings_at(number).search_name: number for number in range(len(truth))}

    def racer_at(number: int) -> Racer:
        return Racer(settings_at(number), float(predicted[number]), 1.0)

    def neighbours(leader: Configuration) -> list[Racer]:
        own = np.array(POINTS[numbers[leader.search_name]])
        near = np.flatnonzero((np.array(POINTS) != own).sum(axis=1) == 1)
        near = near[predicted[near] >= 0.5 * predicted[numbers[leader.search_name]]]
        return [racer_at(int(one)) for one in sorted(near, key=lambda one: -predicted[one])]

    racing = Race(PARAMS.tune.model_copy(update={"seed": seed}))
    first = dict.fromkeys([int(rng.integers(len(truth))), *map(int, np.argsort(-predicted)[:16])])
    racing.join([racer_at(number) for number in first])
    machine = MadeUpMachine(
        lambda turn: float(np.exp(truth[numbers[turn.subject]])),
        noise=NOISE,
        slowness=float(np.log(1.4)),
        seed=seed,
    )
    machine.run(race(racing, PLAN, 540.0, neighbours))
    winner = numbers[next(iter(finalists(racing)))]
    return float(1 - np.exp(truth[winner] - truth.max()))


@pytest.mark.parametrize(("error", "share"), [(0.1, 0.9), (0.2, 0.75)])
def test_the_winner_is_within_5_percent_of_the_best_of_3072(error: float, share: float) -> None:
    lost = [rate_lost(seed, error) for seed in range(SEEDS)]
    assert np.mean(np.array(lost) < 0.05) >= share
