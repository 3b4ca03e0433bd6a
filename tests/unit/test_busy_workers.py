"""How many in-process workers are kept busy: the number whose total rate is highest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any

import pytest
import torch

from litmeter.kinds.classifier import Classifier
from litmeter.load.bodies import Bodies
from litmeter.measure.inprocess_workers import measure, run_worker
from litmeter.measure.subjects import InProcess
from litmeter.measure.turn import Turn, Work, WorkKind
from litmeter.system.processes import JsonLinesProcess

NOTHING = Bodies([], "application/json")


class Replayed(JsonLinesProcess):
    """Answers each probe with the next rate of as many busy workers; ``asked`` has their numbers."""

    pid = 0

    def __init__(self, rates: Mapping[int, Sequence[float]], cpu_ms: float = 1.0) -> None:
        self.rates, self.cpu_ms = {busy: list(own) for busy, own in rates.items()}, cpu_ms
        self.asked: list[int] = []
        self.threads: list[int | None] = []

    def send(self, job: Any) -> None:
        self.asked.append(job["busy"])
        self.threads.append(job["threads"])

    def answer(self, tick: object = None) -> Any:
        return [[self.rates[self.asked[-1]].pop(0)], self.cpu_ms, None]


def in_process(talk: Replayed, workers: int, fewest: int) -> InProcess:
    """As many workers, of which the fewest have a core for each thread."""
    subject = InProcess("any", Classifier(workers_per_device=workers), "cuda", NOTHING)
    subject.talk, subject.cores, subject.threads = talk, float(fewest), 1
    return subject


@pytest.mark.parametrize(
    ("workers", "fewest", "rates", "busy", "asked"),
    [
        (4, 1, {1: (20, 21), 2: (40, 39), 4: (80, 75)}, 4, [1, 1, 2, 2, 4, 4]),
        (4, 1, {1: (20, 21), 2: (15, 14)}, 1, [1, 1, 2, 2]),
        (4, 1, {1: (20, 21), 2: (30, 12), 4: (35, 36)}, 4, [1, 1, 2, 2, 4, 4]),  # slow for a moment
        (4, 1, {1: (20, 21), 2: (6, 30)}, 1, [1, 1, 2]),  # hopeless at once
        (4, 1, {1: (20, 21), 2: (30, 31), 4: (30, 29)}, 2, [1, 1, 2, 2, 4, 4]),
        (4, 2, {2: (20, 21), 4: (40, 39)}, 4, [2, 2, 4, 4]),
        (4, 4, {}, 4, []),  # a core for each thread
        (1, 8, {}, 1, []),
    ],
)
def test_the_search_goes_on_while_more_workers_are_faster(
    workers: int, fewest: int, rates: Mapping[int, Sequence[float]], busy: int, asked: list[int]
) -> None:
    talk = Replayed(rates)
    subject = in_process(talk, workers, fewest)
    assert [subject.busiest(), subject.busiest()] == [busy, busy]
    assert talk.asked == asked  # it is searched once


@pytest.mark.parametrize(
    ("cpu_ms", "busy", "asked"), [(0.2, 4, [2, 2, 4, 4]), (9.0, 4, [2, 2, 4, 4]), (18.0, 2, [2, 2])]
)
def test_workers_that_wait_are_no_fewer_than_the_server_has(
    cpu_ms: float, busy: int, asked: list[int]
) -> None:
    """On two cores two workers of a model of 20 ms do 100 images/s, and four that sleep 200."""
    talk = Replayed({2: (100, 100), 4: (200, 200)}, cpu_ms)
    subject = in_process(talk, workers=4, fewest=2)
    subject.workers = 2  # on a CPU
    assert subject.busiest() == busy
    assert talk.asked == asked


def test_a_turn_may_say_how_many_are_busy() -> None:
    talk = Replayed({3: (70,), 1: (20, 21), 2: (20, 21)})
    workers = in_process(talk, 2, fewest=1)
    done = workers.load(Turn("any", Work("model", 1, 0.1, busy=3)), lambda: None)
    assert (done.blocks.tolist(), talk.asked) == ([70], [3])


@pytest.mark.parametrize(
    ("kind", "size", "busy"),
    [("pipeline", 1, 4), ("pipeline", 4, 2), ("model", 8, 1), ("pipeline", 16, 1), ("filled", 8, 4)],
)
def test_no_more_workers_are_busy_than_users_can_fill(kind: WorkKind, size: int, busy: int) -> None:
    talk = Replayed({busy: (70,)})
    workers = in_process(talk, 4, fewest=4)
    workers.users = 8
    workers.load(Turn("any", Work(kind, size, 0.1)), lambda: None)
    assert talk.asked == [busy]


def late_by(connection: Connection, late_s: Sequence[float]) -> None:
    """A worker that begins so much later each time than it is told to, and runs until the time is over."""
    for late in late_s:
        connection.recv()
        connection.send(None)
        begin, seconds = connection.recv()
        started = begin + late
        ended = max(begin + seconds, started) + 0.01
        connection.send(([(started, ended)], ended - started, []))


def measured_beside(late_s: Sequence[float]) -> tuple[list[float], float, float | None]:
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
    rates, *_ = measured_beside(late_s)
    assert min(rates) > 0


def test_workers_that_never_run_at_once_end_the_process_and_say_so() -> None:
    with pytest.raises(SystemExit, match="did not run at the same time"):
        measured_beside((9.0, 9.0, 9.0))


class Counting:
    """Notes torch's threads at each batch."""

    threads = 2

    def __init__(self, counts: list[int]) -> None:
        torch.set_num_threads(self.threads)  # as a LitAPI may in its setup
        self.counts = counts

    def batch(self, size: int) -> None:
        """Nothing to do."""

    def run(self, kind: str, size: int, batch: object) -> None:
        self.counts.append(torch.get_num_threads())


def test_a_worker_runs_in_one_thread_where_that_is_asked_and_in_its_own_before_and_after() -> None:
    ours, its = Pipe()
    counts: list[int] = []
    worker = Thread(target=run_worker, args=(its, lambda: Counting(counts)))
    worker.start()
    assert ours.recv() == Counting.threads
    for threads, expected in ((None, 2), (1, 1), (None, 2)):
        counts.clear()
        measure([ours], "pipeline", 1, 0.01, threads=threads)
        assert set(counts) == {expected}
    ours.close()
    worker.join()


def test_as_many_workers_and_threads_as_asked_for_run_whatever_is_fastest() -> None:
    talk = Replayed({4: [10.0, 20.0]})
    subject = in_process(talk, 4, fewest=1)
    for work in (Work("crowded", 8, 0.3, 4), Work("one_thread", 8, 0.3, 4, 1)):
        subject.load(Turn("any", work), lambda: None)
    assert (talk.asked, talk.threads) == ([4, 4], [None, 1])
