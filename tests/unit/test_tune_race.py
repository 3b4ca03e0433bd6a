"""A race: who has lost, who is equal, and that it finds the best on surfaces of known rates."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from litmeter.params import ServeSettings
from litmeter.stats import comparison
from litmeter.tune.race import Race, Racer
from litmeter.tune.search import finalists

SEEDS = 20
NOISE = 0.065
"""Of a turn, in logarithms: 4% of a window of four seconds, for one and a half."""


def raced(rates: dict[str, Sequence[float]], barred: Sequence[str] = ()) -> Race:
    race = Race(list(rates))
    race.barred |= set(barred)
    for number in range(len(next(iter(rates.values())))):
        race.add_round({name: own[number] for name, own in rates.items() if name in race.next_turns})
        race.drop_losers()
    return race


def wobbling(mean: float, rounds: int, seed: int) -> list[float]:
    return list(mean * np.exp(np.random.default_rng(seed).normal(0, 0.02, rounds)))


def test_who_is_slower_beyond_doubt_has_lost_and_the_reference_goes_on() -> None:
    race = raced({"serve": wobbling(70, 8, 0), "fast": wobbling(100, 8, 1), "slow": wobbling(80, 8, 2)})
    assert race.remaining == ["fast"]
    assert race.lost["slow"] >= 4
    assert race.next_turns == ["serve", "fast"]
    assert race.leader() == "fast"
    own = race.ratio("fast", "serve")
    assert own is not None
    assert own.low is not None
    assert 1.3 < own.low < own.ratio < 1.6
    assert race.settled()


def test_who_is_far_behind_leaves_after_two_rounds() -> None:
    race = raced({"serve": [100.0, 100.0], "far": [50.0, 55.0], "near": [70.0, 55.0]})
    assert race.lost == {"far": 2}


def test_who_never_answers_has_lost() -> None:
    race = raced({"serve": [100.0] * 3, "mute": [0.0] * 3})
    assert race.lost == {"mute": 2}
    assert race.ratio("mute", "serve") is None


def test_a_machine_that_slows_down_decides_nothing() -> None:
    slow = np.where(np.arange(12) % 3 == 0, 0.5, 1.0)
    rates = {name: list(slow * wobbling(100, 12, seed)) for seed, name in enumerate(("serve", "a", "b"))}
    assert raced(rates).remaining == ["serve", "a", "b"]


def test_equals_settle_a_race() -> None:
    names = ("serve", "a")
    assert not raced({name: wobbling(100, 4, seed) for seed, name in enumerate(names)}).settled()
    assert raced({name: wobbling(100, 30, seed) for seed, name in enumerate(names)}).settled()


def test_who_breaks_a_constraint_makes_nobody_lose() -> None:
    race = raced({"serve": [80.0] * 8, "late": [200.0] * 8, "good": [90.0] * 8}, barred=["late"])
    assert race.leader() == "good"
    assert race.remaining == ["good"]
    assert race.lost == {"serve": 4}
    assert "late" in race.next_turns


def test_a_reference_that_does_not_answer_leaves_nobody_to_lead() -> None:
    race = raced({"serve": [0.0] * 5, "other": [100.0] * 5})
    assert race.leader() is None
    assert race.lost == {}
    assert not race.settled()


def test_who_joins_later_is_compared_in_the_rounds_that_it_ran() -> None:
    race = Race(["serve"])
    for number in range(12):
        if number == 4:
            race.join(["late"])
        rates = {"serve": 100.0 + number, "late": 130.0 + number}
        race.add_round({name: rates[name] for name in race.next_turns})
        race.drop_losers()
    assert race.leader() == "late"
    own = race.ratio("late", "serve")
    assert own is not None
    assert own.ratio == pytest.approx(1.28, abs=0.02)


def test_rounds_that_an_earlier_search_ran_beside_another_reference_do_no_harm() -> None:
    race = Race(["new", "old"])
    for _ in range(6):
        race.add_round({"old": 100.0})
        race.drop_losers()
    assert (race.lost, race.leader(), race.compared_rounds) == ({}, None, 0)


KNOBS = ((0, 1),) * 5 + (tuple(range(6)), (1, 2, 4, 8), (0, 2, 10, 50))
WORKERS = [0, np.log(1.35), np.log(1.2), np.log(0.4), np.log(0.6), np.log(0.7)]
BATCH = {1: np.log(0.78), 2: np.log(0.96), 4: 0.0, 8: np.log(0.97)}
TIMEOUT = {0: 0.0, 2: np.log(0.97), 10: np.log(0.85), 50: np.log(0.5)}


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
        for half, compiled, preprocess, direct, keep, workers, batch, timeout in itertools.product(*KNOBS)
    ]
    return np.array(rates) + rng.normal(0, 0.03, len(rates))


def rate_lost(seed: int, error: float, number: int) -> float:
    """What the winner of a race of the ``number`` best by prediction lacks of the best rate.

    Half of the variance of the predictions' ``error`` is common to all that share precision, compiling,
    preprocessing and transport, as costs are measured by part. The machine changes its speed by 1.4, for two
    minutes on average; a turn takes 2.2 s, and the race 9 minutes.
    """
    truth, rng = surface(seed), np.random.default_rng(1000 + seed)
    part = np.repeat(rng.normal(0, error, 16), len(truth) // 16)
    predicted = truth + (part + rng.normal(0, error, len(truth))) / np.sqrt(2)
    reference = str(rng.integers(len(truth)))
    best = [str(one) for one in np.argsort(-predicted)[:number]]
    race = Race([reference, *(name for name in best if name != reference)])
    seconds, slow, changes = 0.0, bool(rng.integers(2)), rng.exponential(120)
    while seconds < 540 and not (race.rounds and race.settled()):
        rates: dict[str, float | None] = {}
        for name in rng.permutation(race.next_turns):
            seconds += 2.2
            while seconds > changes:
                slow, changes = not slow, changes + rng.exponential(120)
            rates[str(name)] = float(np.exp(truth[int(name)] - slow * np.log(1.4) + rng.normal(0, NOISE)))
        race.add_round(rates)
        race.drop_losers()
    winner = next(iter(race_winner(race)))
    return float(1 - np.exp(truth[int(winner)] - truth.max()))


def race_winner(race: Race) -> list[str]:
    """The cheapest of the fastest, where all cost the same but for their names: any within 3% may win."""
    racers = {name: Racer(ServeSettings(max_batch_size=1 + int(name)), 1.0, 1.0) for name in race.names}
    return finalists(race, racers)


@pytest.fixture
def usual_variance_by_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Computed once: a race asks for it with the same rates for every pair of a round, most of its time."""
    computed: dict[tuple[object, ...], float | None] = {}

    def usual_variance(rates: comparison.Rates, reference: str, rounds: Sequence[int]) -> float | None:
        key = (reference, *rounds, *((name, *own) for name, own in rates.items()))
        if key not in computed:
            computed[key] = comparison_usual_variance(rates, reference, rounds)
        return computed[key]

    comparison_usual_variance = comparison.usual_variance
    monkeypatch.setattr(comparison, "usual_variance", usual_variance)


@pytest.mark.usefixtures("usual_variance_by_round")
@pytest.mark.parametrize(("error", "share"), [(0.1, 0.9), (0.2, 0.8)])
def test_the_winner_is_within_5_percent_of_the_best_of_3072(error: float, share: float) -> None:
    lost = [rate_lost(seed, error, 16 if error == 0.1 else 24) for seed in range(SEEDS)]
    assert np.mean(np.array(lost) < 0.05) >= share
