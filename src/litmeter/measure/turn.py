"""What is measured, and what a schedule and the loop say to each other.

A *schedule* decides what is measured next from what was measured: a generator that asks for turns, is sent
samples, and returns its result. It knows no server and no clock: times are those of its samples, so that a
log of turns repeats its decisions.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from litmeter.load import LoadPlan
from litmeter.measure.rows import TurnRow
from litmeter.stats.records import LoadRecord

WorkKind = Literal["model", "preprocess", "pipeline", "crowded", "one_thread"]
"""The model alone; decode and preprocess alone; all, from image bytes on; that in all workers at once, though
fewer of them have all cores busy; and that with one thread in each."""
IN_PROCESS = " in-process"
"""Ends the name of a subject that runs without a server."""


def in_process(configuration: str) -> str:
    """The subject that runs a configuration's pipeline without a server."""
    return configuration + IN_PROCESS


def configuration_of(subject: str) -> str:
    """The configuration that a subject runs."""
    return subject.removesuffix(IN_PROCESS)


@dataclass(frozen=True)
class Work:
    """The load of a subject in-process: batches, one after another, that begin within ``seconds``.

    They run in ``busy`` workers; None: as many as are fastest.
    """

    kind: WorkKind
    batch_size: int
    seconds: float
    busy: int | None = None


@dataclass(frozen=True)
class Turn:
    """One subject under one load for one interval.

    Attributes:
        round: number of the round, the level's run, or the probe.
        slo_ms: if given, the sample says which share of the requests failed or took longer.
        note: what the progress says beside the subject.
        end_s: when all will have been measured, as far as that is known, seconds since the log's begin; None
            where it is the budget.
    """

    subject: str
    load: LoadPlan | Work
    round: int = 0
    slo_ms: float | None = None
    note: str = field(default="", compare=False)
    end_s: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Sample:
    """What a turn yields: its figures, and each request if it sent some (answers empty from a log)."""

    turn: Turn
    row: TurnRow
    record: LoadRecord | None = None

    @property
    def requests(self) -> LoadRecord:
        """Each request, of a turn that sent some."""
        assert self.record is not None
        return self.record

    @property
    def ended_s(self) -> float:
        """When the turn ended, seconds since the log's begin."""
        return self.row.at_s + self.row.seconds


@dataclass(frozen=True)
class Serve:
    """Ask for these subjects to be ready, as many as memory holds, in this order; all others end."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Serving:
    """The subjects that are ready, and when the last one was, seconds since the log's begin.

    ``ready_s`` has for each the time from its start until it was; None where it ran already.
    """

    names: tuple[str, ...]
    at_s: float
    ready_s: Mapping[str, float | None] = field(default_factory=dict)


Result = TypeVar("Result")
Schedule = Generator[Turn | Serve, Sample | Serving, Result]


def measure(turn: Turn) -> Schedule[Sample]:
    """Ask for a turn."""
    sample = yield turn
    assert isinstance(sample, Sample)
    return sample


def serve(names: Sequence[str]) -> Schedule[Serving]:
    """Ask for subjects to be ready."""
    serving = yield Serve(tuple(names))
    assert isinstance(serving, Serving)
    return serving
