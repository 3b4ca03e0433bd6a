"""What came out of a race: the winner, what cannot be told from it, and what each knob is worth."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from litmeter.benchmark.capacity_rows import CapacityMetrics
from litmeter.params import KNOBS, ServeSettings
from litmeter.stats.comparison import Ratio
from litmeter.system.files import rounded
from litmeter.tune.prediction import Costs, predicted_rps
from litmeter.tune.race import EQUAL_WITHIN, Race, is_equal
from litmeter.tune.racers import Racer, simplicity
from litmeter.tune.rows import KnobRow, Status, TuneRow
from litmeter.tune.study import name_of

MEMORY_STEP_MIB = 50.0
"""Differences of memory below this are none."""
TOGETHER = {"workers_per_device", "threads_per_worker"}
"""Knobs of which one leaves less to the other."""


@dataclass(frozen=True)
class Result:
    """A race that is over.

    Attributes:
        unserved: names of those for which there was no memory.
        capacities: of finalists.
        by_capacity: whether the capacity decides, not the rate.
    """

    race: Race
    racers: Mapping[str, Racer]
    unserved: Sequence[str]
    capacities: Mapping[str, CapacityMetrics]
    by_capacity: bool

    def winner(self) -> str | None:
        """The cheapest of the fastest; None where none has answered and keeps to all constraints."""
        if self.by_capacity and (names := self._highest_capacities()):
            return min(names, key=lambda name: cost(self.racers[name]))
        return next(iter(finalists(self.race, self.racers)), None)

    def status(self, name: str) -> Status:
        """See ``TuneRow``."""
        if self.racers[name].broken or name in self.unserved:
            return "excluded"
        if name == self.winner():
            return "winner"
        highest = self._highest_capacities() if self.by_capacity else []
        if highest and name in self.capacities:
            return "equal" if name in highest else "slower"
        leader = self.race.leader()
        own = self.race.ratio(name, leader) if leader else None
        if name in self.race.lost or own is None:
            return "slower"
        return "equal" if is_equal(own) else "not resolved"

    def _highest_capacities(self) -> list[str]:
        """Those whose capacity's interval overlaps that of the highest one; of "above_range" the low end."""
        lows = {name: one.low_rps for name, one in self.capacities.items() if one.low_rps is not None}
        if not lows:
            return []
        best = max(lows, key=lambda name: self.capacities[name].capacity_rps or lows[name])
        highs = {name: self.capacities[name].high_rps for name in lows}
        return [name for name, high in highs.items() if high is None or high >= lows[best]]


def finalists(race: Race, racers: Mapping[str, Racer]) -> list[str]:
    """Those that have not lost: first the ones within 3% of the leader, cheapest first; then by rate."""
    leader = race.leader()
    if leader is None:
        return []
    ratios = {name: own.ratio for name in race.remaining if (own := race.ratio(name, leader))}
    as_fast = [name for name, ratio in ratios.items() if ratio >= 1 - EQUAL_WITHIN]
    others = sorted((name for name in ratios if name not in as_fast), key=lambda name: -ratios[name])
    return sorted(as_fast, key=lambda name: cost(racers[name])) + others


def fastest(race: Race, number: int) -> list[str]:
    """So many of those that have not lost, by rate."""
    leader = race.leader()
    ratios = {name: own.ratio for name in race.remaining if leader and (own := race.ratio(name, leader))}
    return sorted(ratios, key=lambda name: -ratios[name])[:number]


def cost(racer: Racer) -> tuple[object, ...]:
    """What is cheaper sorts first: less memory, in steps, then what is simpler."""
    return (round((racer.memory_mib or 0.0) / MEMORY_STEP_MIB), simplicity(racer.settings))


def tune_rows(result: Result) -> list[TuneRow]:
    """A row per racer: the winner, those that are no slower, and the others by how long they kept up."""
    race, winner = result.race, result.winner()
    first = [winner, *(name for name in finalists(race, result.racers) if name != winner)]
    others = sorted(
        (name for name in result.racers if name not in first),
        key=lambda name: -race.lost.get(name, race.rounds),
    )
    return [_row(result, name) for name in [*first, *others] if name is not None]


def _row(result: Result, name: str) -> TuneRow:
    race, racer = result.race, result.racers[name]
    leader = race.leader()
    rates = [rate for rate in race.rates[name] if rate]
    capacity = result.capacities.get(name)
    return TuneRow(
        name=name,
        status=result.status(name),
        incumbent=name == race.reference,
        **{knob: getattr(racer.settings, knob) for knob in KNOBS},
        predicted_rps=round(racer.predicted_rps, 1),
        rate_rps=round(float(np.exp(np.mean(np.log(rates)))), 1) if rates else None,
        **_ratio_columns("ratio", race.ratio(name, leader) if leader else None),
        **_ratio_columns("over_serve", race.ratio(name, race.reference)),
        p95_ms=rounded(racer.p95_ms, 1),
        memory_mib=rounded(racer.memory_mib, 0),
        agreement=round(racer.agreement, 4),
        failed=racer.failed,
        rounds=sum(rate is not None for rate in race.rates[name]),
        lost_after=race.lost.get(name),
        capacity_rps=rounded(capacity.capacity_rps, 1) if capacity else None,
        capacity_low_rps=rounded(capacity.low_rps, 1) if capacity else None,
        capacity_high_rps=rounded(capacity.high_rps, 1) if capacity else None,
        reason=racer.broken or ("no memory for its server" if name in result.unserved else ""),
    )


def _ratio_columns(column: str, own: Ratio | None) -> dict[str, Any]:
    """A ratio with its interval, as three columns."""
    values = (own.ratio, own.low, own.high) if own else (None, None, None)
    names = (column, f"{column}_low", f"{column}_high")
    return {name: rounded(value, 4) for name, value in zip(names, values, strict=True)}


def knob_rows(
    configurations: Sequence[ServeSettings], result: Result, costs: Costs, cores: int, users: int
) -> list[KnobRow]:
    """For each knob and each of its other values in ``configurations``: the rate over the winner's."""
    winner = result.winner()
    if winner is None:
        return []
    best = result.racers[winner].settings
    best_rps = predicted_rps(best, costs, cores, users)
    rows = []
    for settings in configurations:
        changed = [knob for knob in KNOBS if getattr(settings, knob) != getattr(best, knob)]
        if not changed or (len(changed) > 1 and not set(changed) <= TOGETHER):
            continue
        together = changed[0] in TOGETHER
        name = name_of(settings)
        own = result.race.ratio(name, winner) if name in result.racers else None
        ratio = own.ratio if own else predicted_rps(settings, costs, cores, users) / best_rps
        threads = settings.threads_per_worker or "all"
        rows.append(
            KnobRow(
                "workers x threads" if together else changed[0],
                f"{settings.workers_per_device}x{threads}"
                if together
                else json.dumps(getattr(settings, changed[0])).strip('"'),
                round(ratio, 3),
                rounded(own.low, 3) if own else None,
                rounded(own.high, 3) if own else None,
                "measured" if own else "predicted",
            )
        )
    order = {"workers x threads": KNOBS.index("workers_per_device"), **{k: n for n, k in enumerate(KNOBS)}}
    return sorted(rows, key=lambda row: (order[row.knob], -row.ratio))
