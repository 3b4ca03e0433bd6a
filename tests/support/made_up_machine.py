"""A made-up machine, on which a schedule measures in no time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from litmeter.load import LoadPlan
from litmeter.measure.rows import TurnRow
from litmeter.measure.turn import MakeReady, Ready, Result, Sample, Schedule, Turn
from litmeter.stats.records import LoadRecord, late_share
from tests.support.load import record

START_S, AROUND_TURN_S, STATE_S = 2.0, 0.3, 60.0
"""Of a subject's start; of a turn besides its load; and of the machine's state, on average."""


@dataclass
class MadeUpMachine:
    """Subjects of known rates, and a clock that measuring moves.

    Attributes:
        rate_rps: of a turn.
        columns: of its row besides.
        latency_ms: of every answer of a turn; without it there is no record of the requests.
        noise: of a turn's rate, in logarithms.
        slowness: by which the machine is slower in every second of its states, in logarithms.
        places: number of subjects that memory holds.
        broken: subjects that do not start.
        log: what was asked and answered.
    """

    rate_rps: Callable[[Turn], float]
    columns: Callable[[Turn], Mapping[str, Any]] = lambda turn: {}
    latency_ms: Callable[[Turn], float] | None = None
    noise: float = 0.0
    slowness: float = 0.0
    places: int = 1000
    broken: frozenset[str] = frozenset()
    seed: int = 0
    seconds: float = field(default=0.0, init=False)
    ready: tuple[str, ...] = field(default=(), init=False)
    log: list[tuple[Turn | MakeReady, Sample | Ready]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.slow, self.changes_s = bool(self.rng.integers(2)), self.rng.exponential(STATE_S)

    @property
    def turns(self) -> list[Turn]:
        """All that were asked."""
        return [asked for asked, _ in self.log if isinstance(asked, Turn)]

    def run(self, schedule: Schedule[Result]) -> Result:
        """Measure what a schedule asks for."""
        try:
            asked = next(schedule)
            while True:
                answer = self.answer(asked)
                self.log.append((asked, answer))
                asked = schedule.send(answer)
        except StopIteration as end:
            result: Result = end.value
            return result

    def answer(self, asked: Turn | MakeReady) -> Sample | Ready:
        """Serve or measure what is asked."""
        return self.make_ready(asked) if isinstance(asked, MakeReady) else self.load(asked)

    def make_ready(self, asked: MakeReady) -> Ready:
        """Start subjects."""
        kept = [name for name in asked.names if name in self.ready]
        startable = [name for name in asked.names if name not in {*self.ready, *self.broken}]
        new = startable[: self.places - len(kept)]
        self.seconds += START_S * len(new)
        self.ready = tuple(name for name in asked.names if name in {*kept, *new})
        return Ready(self.ready, self.seconds, dict.fromkeys(new, START_S))

    def load(self, turn: Turn) -> Sample:
        """Measure a turn."""
        assert turn.subject in self.ready
        begin_s, load = self.seconds, turn.load
        self.seconds += (
            load.warmup_s + load.min_s + AROUND_TURN_S if isinstance(load, LoadPlan) else load.seconds
        )
        while self.seconds > self.changes_s:
            self.slow, self.changes_s = not self.slow, self.changes_s + self.rng.exponential(STATE_S)
        logarithm = self.rng.normal(0, self.noise) - self.slow * self.slowness
        rate_rps = self.rate_rps(turn) * float(np.exp(logarithm))
        offered_rps = load.rate_rps if isinstance(load, LoadPlan) else None
        rate_rps = min(rate_rps, offered_rps or rate_rps)
        found = self._record(turn, rate_rps)
        row = TurnRow(
            turn=len(self.turns),
            at_s=begin_s,
            seconds=self.seconds - begin_s,
            round=turn.round,
            subject=turn.subject,
            work="served",
            rate_rps=rate_rps or None,
            high_rps=rate_rps,
            offered_rps=offered_rps,
            answers=0 if found is None else len(found.end),
            sent=0 if found is None else len(found.end),
            missed=late_share(found, turn.limits) if found and turn.limits else None,
            **self.columns(turn),
        )
        return Sample(turn, row, found)

    def _record(self, turn: Turn, rate_rps: float) -> LoadRecord | None:
        if self.latency_ms is None or not isinstance(turn.load, LoadPlan):
            return None
        start = np.arange(0.5, 1 + rate_rps) / rate_rps
        edges = np.linspace(0, 1 + self.latency_ms(turn) / 1000, 4)
        offered_rps = turn.load.rate_rps
        end = start + self.latency_ms(turn) / 1000
        return record(start, end, users=turn.load.users, rate_rps=offered_rps, edges=edges)
