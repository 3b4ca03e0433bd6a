"""Turns, and a machine without servers that answers them in no time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from litmeter.load import LoadPlan
from litmeter.measure.figures import inprocess_row, machine_row, served_row
from litmeter.measure.log import Log
from litmeter.measure.telemetry import Usage
from litmeter.measure.turn import MakeReady, Ready, Sample, Schedule, Turn, Work
from litmeter.stats.records import FAILED, OK, LoadRecord
from tests.support.load import record

Result = TypeVar("Result")
READY_S = 5.0


@dataclass
class Machine:
    """Answers a turn with requests or batches at some rate, and has a clock of its own.

    Attributes:
        rate_rps: of a turn; 0: no answer is good.
        turn_s: that a turn takes.
        holds: subjects that its memory holds at once.
        asked: all that it was asked.
    """

    rate_rps: Callable[[Turn], float]
    turn_s: Callable[[Turn], float] = lambda turn: 1.0
    holds: int | None = None
    now_s: float = 0.0
    asked: list[Turn | MakeReady] = field(default_factory=list)

    def __call__(self, asked: Turn | MakeReady, number: int) -> Sample | Ready:
        """The answer to what a schedule asks.

        Args:
            number: of turns before.
        """
        self.asked.append(asked)
        if isinstance(asked, MakeReady):
            self.now_s += READY_S
            names = asked.names[: self.holds]
            return Ready(names, self.now_s, dict.fromkeys(names, READY_S))
        at_s, seconds, rate_rps = self.now_s, self.turn_s(asked), self.rate_rps(asked)
        self.now_s += seconds
        usage = Usage(seconds=seconds)
        row = machine_row(asked, number, at_s, seconds, usage)
        if isinstance(asked.load, Work):
            blocks = rate_rps * np.linspace(0.98, 1.02, 10)
            return Sample(asked, inprocess_row(row, asked.load, usage, blocks, 5.0, None))
        found = requests_at(asked.load, rate_rps, seconds)
        return Sample(asked, served_row(row, asked, found, usage), found)

    @property
    def turns(self) -> list[Turn]:
        """The turns among what it was asked."""
        return [one for one in self.asked if isinstance(one, Turn)]


def requests_at(plan: LoadPlan, rate_rps: float, seconds: float) -> LoadRecord:
    """The record of a closed loop whose users are answered in turn, with the numbers of their photos."""
    interval_s = 1 / (rate_rps or 10.0)
    end = np.arange(1, max(2, int(seconds / interval_s)) + 1) * interval_s
    start = end - np.minimum(end, plan.users * interval_s)
    found = record(start, end, users=plan.users, edges=np.linspace(0.0, end[-1], 4))
    order = np.resize(plan.bodies or range(4), len(end))
    answers = [b"%d" % body for body in order] if plan.keep_answers else []
    status = np.full(len(end), OK if rate_rps else FAILED)
    return replace(found, body=order, answers=answers, status=status)


def drive(schedule: Schedule[Result], machine: Machine, log: Log | None = None) -> Result:
    """Run a schedule on a machine, as ``run`` does on a real one."""
    log = log or Log()
    try:
        asked = next(schedule)
        while True:
            answer = log.repeated(asked)
            if answer is None:
                answer = machine(asked, len(log.samples))
                log.add(asked, answer)
            asked = schedule.send(answer)
    except StopIteration as end:
        result: Result = end.value
        return result
