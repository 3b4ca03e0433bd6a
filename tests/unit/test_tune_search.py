"""What comes out of a race whose rounds are all on record."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from litmeter.load import LoadGenerator
from litmeter.measure.capacity import CapacityMetrics
from litmeter.params import ServeSettings, load_params
from litmeter.paths import MODEL
from litmeter.tune.costs import Costs, ModelVariant
from litmeter.tune.race import Racer, RaceTrack
from litmeter.tune.record import Record, Round
from litmeter.tune.search import FinishedRace, knob_rows, tune_rows
from tests.support.project import ROOT

RATES = {"serve": 80.0, "fast": 100.0, "small": 99.9, "slow": 90.0, "large": 120.0}
"""Requests a second; "small" takes as much memory as the others, in smaller batches."""
SETTINGS = {
    "serve": ServeSettings(),
    "fast": ServeSettings(max_batch_size=8),
    "small": ServeSettings(max_batch_size=2),
    "slow": ServeSettings(max_batch_size=4),
    "large": ServeSettings(max_batch_size=8, workers_per_device=2, threads_per_worker=1),
}
CAPACITY = dict.fromkeys(CapacityMetrics.__dataclass_fields__, None)


def track_of(path: Path, rounds: int = 20, **limits: Any) -> RaceTrack:
    """A race of these ``RATES``, one of which takes more memory."""
    params = load_params(ROOT / "params.yaml")
    racers = {name: Racer(settings, RATES[name], 1.0) for name, settings in SETTINGS.items()}
    record, rng = Record(path / "tune.jsonl", "here"), np.random.default_rng(0)
    for _ in range(rounds):
        rates = {racers[name].name: rate * np.exp(rng.normal(0, 0.01)) for name, rate in RATES.items()}
        memory = {name: 300.0 for name in rates} | {racers["large"].name: 900.0}
        record.keep_round(Round(rates, dict.fromkeys(rates, 20.0), memory, dict.fromkeys(rates, 0), 1.0))
    tune = params.tune.model_copy(update=limits)
    nobody = cast(LoadGenerator, None)  # no round is run any more
    again = Record(path / "tune.jsonl", "here")
    track = RaceTrack(tune, params.load, MODEL, "cpu", nobody, again, deadline=time.monotonic())
    track.run(list(racers.values()), [])
    return track


def statuses(result: FinishedRace) -> Mapping[str, str]:
    names = {racer: name for name, racer in zip(SETTINGS, result.track.racers, strict=True)}
    return {names[row.name]: row.status for row in tune_rows(result)}


def test_the_cheapest_of_those_that_are_as_fast_wins_and_who_breaks_a_limit_does_not(tmp_path: Path) -> None:
    result = FinishedRace(track_of(tmp_path, max_memory_mib=600.0), {}, by_capacity=False)
    found = statuses(result)
    assert found == {
        "small": "winner",
        "fast": "equal",
        "large": "excluded",
        "slow": "slower",
        "serve": "slower",
    }
    assert next(iter(found)) == "small"
    [row] = [row for row in tune_rows(result) if row.incumbent]
    assert (row.name, row.over_serve, row.rounds) == (Racer(SETTINGS["serve"], 0.0, 0.0).name, 1.0, 20)


def test_without_a_limit_the_fastest_wins(tmp_path: Path) -> None:
    assert statuses(FinishedRace(track_of(tmp_path), {}, by_capacity=False))["large"] == "winner"


@pytest.mark.parametrize(("low_rps", "winner"), [(85.0, "small"), (95.0, "fast")])
def test_by_capacity_the_cheapest_of_those_whose_intervals_overlap_wins(
    tmp_path: Path, low_rps: float, winner: str
) -> None:
    track = track_of(tmp_path, max_memory_mib=600.0)
    ends = {"fast": (low_rps, 97.0, 99.0), "small": (84.0, 86.0, 88.0)}
    capacities = {
        Racer(SETTINGS[name], 0.0, 0.0).name: CapacityMetrics(
            **CAPACITY | {"low_rps": low, "capacity_rps": middle, "high_rps": high}
        )
        for name, (low, middle, high) in ends.items()
    }
    found = statuses(FinishedRace(track, capacities, by_capacity=True))
    assert found[winner] == "winner"
    assert found["fast" if winner == "small" else "small"] == ("equal" if winner == "small" else "slower")


def test_a_knob_is_worth_what_was_measured_and_else_what_was_predicted(tmp_path: Path) -> None:
    result = FinishedRace(track_of(tmp_path, max_memory_mib=600.0), {}, by_capacity=False)
    other = ServeSettings(max_batch_size=2, transport="direct")
    twice = ServeSettings(max_batch_size=2, workers_per_device=2, threads_per_worker=1)
    parts = {ModelVariant.of(one): {1: 0.010, 8: 0.010} for one in (other, twice)}
    costs = Costs(parts, {"timm": 0.0}, {"litserve": 0.010, "direct": 0.0})
    rows = knob_rows([*SETTINGS.values(), other, twice], result, costs, cores=1, users=8)
    worth = {(row.knob, row.value): (row.ratio, row.source) for row in rows}
    assert worth["transport", "direct"] == (2.0, "predicted")
    assert worth["workers x threads", "2x1"][1] == "predicted"
    ratio, source = worth["max_batch_size", "4"]
    assert source == "measured"
    assert ratio == pytest.approx(0.9, abs=0.02)
    assert ("max_batch_size", "2") not in worth
