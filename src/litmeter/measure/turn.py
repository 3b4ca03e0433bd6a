"""What a schedule and the loop say to each other.

A *schedule* is a generator that decides what is measured next: it yields turns, is sent their samples, and
returns a result. It knows no server and no clock: all times come from samples, so a log of turns repeats its
decisions.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from litmeter.errors import LitmeterError
from litmeter.load import LoadPlan
from litmeter.measure.rows import TurnRow
from litmeter.stats.records import Limits, LoadRecord

WorkKind = Literal[
    "model", "preprocess", "pipeline", "crowded", "one_thread", "lone", "spread", "more", "filled"
]
"""The model alone; decoding and preprocessing alone; the pipeline, from image bytes on. The pipeline in all
workers, and in these with a thread each; in as many workers as there are users, and in these on all cores; in
twice the workers; in full batches, for which there are too few users, in the workers that are fastest."""

IN_PROCESS = " in-process"
"""Suffix of the name of a subject that runs without a server."""


def in_process(configuration: str) -> str:
    """The subject that runs a configuration's pipeline without a server."""
    return configuration + IN_PROCESS


def configuration_of(subject: str) -> str:
    """The configuration that a subject runs."""
    return subject.removesuffix(IN_PROCESS)


@dataclass(frozen=True)
class Work:
    """Load of a subject in-process: batches, one after another, that begin within ``seconds``.

    ``busy`` is the number of workers that run batches; None: as many as are fastest and users can fill.
    ``threads`` are those of each worker's libraries; None: as configured.
    """

    kind: WorkKind
    batch_size: int
    seconds: float
    busy: int | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Turn:
    """One subject under one load for one interval.

    Attributes:
        round: number of the round, of the level's run, or of the probe.
        limits: the sample has the share of requests that miss them; None: of no interest.
        note: shown by the progress bar beside the subject.
        end_s: expected end of the whole measurement, seconds since the log's begin; None: after the budget.
    """

    subject: str
    load: LoadPlan | Work
    round: int = 0
    limits: Limits | None = None
    note: str = field(default="", compare=False)
    end_s: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Sample:
    """Result of a turn: its figures and its requests, if any (from a log: without answers)."""

    turn: Turn
    row: TurnRow
    record: LoadRecord | None = None

    @property
    def requests(self) -> LoadRecord:
        """The requests of a turn that sent some."""
        assert self.record is not None
        return self.record

    @property
    def ended_s(self) -> float:
        """When the turn ended, seconds since the log's begin."""
        return self.row.at_s + self.row.seconds


@dataclass(frozen=True)
class LeftOut:
    """Answer to a turn that could not be measured, of a subject without which a measurement goes on.

    Attributes:
        ended_s: when that was known, seconds since the log's begin.
        takes_others: whether the subject can take other turns; else each gets such an answer.
    """

    subject: str
    reason: str
    ended_s: float
    takes_others: bool = False


@dataclass(frozen=True)
class MakeReady:
    """Request to have these subjects ready, as many as memory holds, in this order; all others stop."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Ready:
    """Answer to ``MakeReady``: the subjects that are ready, and when, in seconds since the log's begin.

    ``ready_s`` has the seconds that each subject took to start; None if it ran already.
    """

    names: tuple[str, ...]
    at_s: float
    ready_s: Mapping[str, float | None] = field(default_factory=dict)


Result = TypeVar("Result")
Answer = Sample | LeftOut | Ready
Schedule = Generator[Turn | MakeReady, Answer, Result]


def attempt(turn: Turn) -> Schedule[Sample | LeftOut]:
    """Ask for a turn, and return its sample, or why there is none."""
    answer = yield turn
    assert not isinstance(answer, Ready)
    return answer


def measure(turn: Turn) -> Schedule[Sample]:
    """Ask for a turn, and return its sample; raise LitmeterError where there is none."""
    sample = yield from attempt(turn)
    if isinstance(sample, LeftOut):
        raise LitmeterError(f"{sample.subject} cannot be measured: {sample.reason}")
    return sample


def make_ready(names: Sequence[str]) -> Schedule[Ready]:
    """Ask for subjects to be ready, and return which are."""
    ready = yield MakeReady(tuple(names))
    assert isinstance(ready, Ready)
    return ready
