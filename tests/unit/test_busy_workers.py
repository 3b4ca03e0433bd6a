"""How many in-process workers are kept busy: the number whose total rate is highest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any

import pytest

from litmeter.measure.inprocess_workers import measure
from litmeter.measure.subjects import InProcess
from litmeter.measure.turn import Turn, Work
from litmeter.params import ServeSettings
from litmeter.paths import MODEL
from litmeter.system.processes import JsonLinesProcess


class Replayed(JsonLinesProcess):
    """Answers each probe with the next rate of as many busy workers; ``asked`` has their numbers."""

    def __init__(self, rates: Mapping[int, Sequence[float]]) -> None:
        self.rates = {busy: list(own) for busy, own in rates.items()}
        self.asked: list[int] = []

    @property
    def pid(self) -> int:  # type: ignore[override]
        return 0

    def send(self, job: Any) -> None:
        self.asked.append(job["busy"])

    def answer(self) -> Any:
        return [[self.rates[self.asked[-1]].pop(0)], 1.0]


def in_process(talk: Replayed, workers: int, fewest: int) -> InProcess:
    """As many workers, of which the fewest have a core for each thread."""
    subject = InProcess("any", ServeSettings(workers_per_device=workers), MODEL, "cuda", [])
    subject.talk, subject.cores, subject.threads = talk, float(fewest), 1
    return subject


@pytest.mark.parametrize(
    ("rates", "busy", "asked"),
    [
        ({1: (20, 21), 2: (40, 39), 4: (80, 75)}, 4, [1, 1, 2, 2, 4, 4]),
        ({1: (20, 21), 2: (15, 14)}, 1, [1, 1, 2, 2]),
        ({1: (20, 21), 2: (30, 12), 4: (35, 36)}, 4, [1, 1, 2, 2, 4, 4]),  # slow for a moment
        ({1: (20, 21), 2: (6, 30)}, 1, [1, 1, 2]),  # hopeless at once
        ({1: (20, 21), 2: (30, 31), 4: (30, 29)}, 2, [1, 1, 2, 2, 4, 4]),
    ],
)
def test_the_search_goes_on_while_more_workers_are_faster(
    rates: Mapping[int, Sequence[float]], busy: int, asked: list[int]
) -> None:
    talk = Replayed(rates)
    workers = in_process(talk, 4, fewest=1)
    assert workers.busiest() == busy
    assert talk.asked == asked
    assert workers.busiest() == busy
    assert talk.asked == asked  # it is searched once


@pytest.mark.parametrize(("workers", "fewest", "asked"), [(4, 4, []), (4, 2, [2, 2, 4, 4]), (1, 8, [])])
def test_workers_that_have_a_core_for_each_thread_are_all_busy(
    workers: int, fewest: int, asked: list[int]
) -> None:
    talk = Replayed({2: (20, 21), 4: (40, 39)})
    assert in_process(talk, workers, fewest).busiest() == workers
    assert talk.asked == asked


def test_a_turn_may_say_how_many_are_busy() -> None:
    talk = Replayed({3: (70,), 1: (20, 21), 2: (20, 21)})
    workers = in_process(talk, 2, fewest=1)
    done = workers.load(Turn("any", Work("model", 1, 0.1, busy=3)), lambda: None)
    assert (done.blocks.tolist(), talk.asked) == ([70], [3])


def late_by(connection: Connection, late_s: Sequence[float]) -> None:
    """A worker that begins so much later each time than it is told to, and runs until the time is over."""
    for late in late_s:
        connection.recv()
        connection.send(None)
        begin, seconds = connection.recv()
        started = begin + late
        ended = max(begin + seconds, started) + 0.01
        connection.send(([(started, ended)], ended - started))


def measured_beside(late_s: Sequence[float]) -> tuple[list[float], float]:
    """What is measured of a punctual worker and one that is late, in windows of 0.1 s at first."""
    pairs = [Pipe() for _ in range(2)]
    threads = [
        Thread(target=late_by, args=(end, own), daemon=True)
        for (_, end), own in zip(pairs, ([0.0] * len(late_s), late_s), strict=True)
    ]
    for thread in threads:
        thread.start()
    return measure([connection for connection, _ in pairs], "model", 1, 0.1)


@pytest.mark.parametrize("late_s", [(0.12, 0.0), (0.5, 0.15, 0.15)])
def test_a_worker_that_began_when_the_other_had_ended_is_measured_again_for_longer(
    late_s: Sequence[float],
) -> None:
    rates, _ = measured_beside(late_s)
    assert min(rates) > 0


def test_workers_that_never_run_at_once_end_the_process_and_say_so() -> None:
    with pytest.raises(SystemExit, match="did not run at the same time"):
        measured_beside((9.0, 9.0, 9.0))
