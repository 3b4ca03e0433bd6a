"""Simulated searches of a large space whose rates are known find one of its fastest configurations."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from litmeter.kinds.classifier import Classifier
from litmeter.measure.rounds import turn_plan
from litmeter.params import load_params
from litmeter.tune.search import TUNE_PACE, Race, Racer, finalists, race
from tests.support.made_up_machine import MadeUpMachine
from tests.support.project import ROOT

PARAMS = load_params(ROOT / "params.yaml")
PLAN = turn_plan(8, PARAMS.load.timeout_s, PARAMS.load.seed, 0, TUNE_PACE)
KNOBS = ((0, 1),) * 5 + (tuple(range(6)), (1, 2, 4, 8), (0, 2, 10, 50))
POINTS = np.array(list(itertools.product(*KNOBS)))
WORKERS = np.log([1.0, 1.35, 1.2, 0.4, 0.6, 0.7])
BATCH = {1: np.log(0.78), 2: np.log(0.96), 4: 0.0, 8: np.log(0.97)}
TIMEOUT = {0: 0.0, 2: np.log(0.97), 10: np.log(0.85), 50: np.log(0.5)}
SEEDS = 6
NUMBERS = {Classifier(max_queue=1 + number): number for number in range(len(POINTS))}
"""A race asks for nothing but names and neighbours, so any settings will do."""


class NumberedRacer(Racer):
    """A racer whose name is the number of its point."""

    @property
    def name(self) -> str:
        return str(NUMBERS[self.settings])


def surface(seed: int) -> npt.NDArray[np.float64]:
    """Logarithms of the rates of 3,072 configurations whose knobs depend on each other."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(1, 0.25, 8)
    half, compiled, preprocess, direct, keep, workers, batch, timeout = POINTS.T
    logs = (
        weight[0] * half * np.log(np.where(compiled, 1.7, 1.2))
        + weight[1] * compiled * np.log(1.8)
        + weight[2] * preprocess * np.log(1.1)
        + weight[3] * direct * np.log(1.15)
        + weight[4] * keep * np.log(np.where(compiled, 1.0, 1.15))
        + weight[5] * WORKERS[workers]
        + weight[6] * np.array([BATCH[size] for size in batch])
        + weight[7] * np.array([TIMEOUT[ms] for ms in timeout]) * np.where(batch > 1, 1, 0.05)
    )
    return logs + rng.normal(0, 0.03, len(logs))


def rate_lost(seed: int) -> float:
    """What the winner of a race of 12 minutes, from a configuration by chance, lacks of the best rate.

    The machine changes its speed by 1.4, and turns vary by 10% besides.
    """
    rates, rng, settings = np.exp(surface(seed)), np.random.default_rng(1000 + seed), list(NUMBERS)
    racing = Race(PARAMS.tune.model_copy(update={"seed": seed}))

    def next_racers() -> list[Racer]:
        for centre in racing.centres():
            near = np.flatnonzero((POINTS[NUMBERS[centre]] != POINTS).sum(axis=1) == 1)
            if new := [one for one in near if str(one) not in racing.racers]:
                return [NumberedRacer(settings[one], 1.0) for one in rng.permutation(new)]
        return []

    racing.join([NumberedRacer(settings[int(rng.integers(len(rates)))], 1.0)])
    slowness = float(np.log(1.4))
    machine = MadeUpMachine(lambda turn: rates[int(turn.subject)], noise=0.1, slowness=slowness, seed=seed)
    machine.run(race(racing, PLAN, 720.0, next_racers))
    return float(1 - rates[int(finalists(racing)[0])] / rates.max())


def test_the_winner_is_within_5_percent_of_the_best_of_3072() -> None:
    lost = [rate_lost(seed) for seed in range(SEEDS)]
    assert np.mean(np.array(lost) < 0.05) >= 0.8
