"""The load generator's process: ``python -m litmeter.load.process SETTINGS``, of a ``LoadGenerator``.

Each user is a greenlet with a connection of its own; the main greenlet decides when windows begin and end.
"""

from __future__ import annotations

import bisect
import itertools
import json
import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import gevent
import numpy as np
from gevent.event import Event

from litmeter.load.connection import Connection, post_head
from litmeter.load.generator import LoadPlan
from litmeter.stats.records import FAILED, OK, TIMED_OUT, WINDOWS, fewest_answers, steady, window_means

TICK_S = 0.05
PROGRESS_S = 0.25
"""Between two progress events."""
PAUSE_AFTER_FAILURE_S = 0.1
"""A refused connection fails in microseconds: without a pause, users of a closed loop would spin on it."""
MAX_ANSWER_BYTES = 65_536
"""Longer answers are counted, but not stored."""


class ClosedLoop:
    """Arrivals of a closed loop: a user's next request is due as soon as its last one has been answered.

    Attributes:
        ended: whether the level has ended, so that no more requests are sent.
    """

    ended = False

    def wait(self) -> float | None:
        """Wait until the user's next request is due; return when it was, None once the level has ended."""
        return None if self.ended else perf_counter()


class OpenLoop(ClosedLoop):
    """Arrivals of an open loop: requests are due at given times, independent of the answers.

    While every user is busy, requests are sent late. Their latency counts from the due time, so that a
    stalled server cannot hide the stall by delaying its users (coordinated omission).

    One idle user waits for the next arrival; the others are parked on a stack, and the one parked last
    is woken first. So no more connections are in use than the rate needs, and idle users cost nothing.

    Args:
        due_s: seconds from now at which requests are due, ascending.
    """

    def __init__(self, due_s: Iterator[float]) -> None:
        self._due_s = due_s
        self._started = perf_counter()
        self._user_waits = False
        self._parked: list[Event] = []

    def wait(self) -> float | None:
        """Wait until the next arrival."""
        if self._user_waits:
            self._parked.append(woken := Event())
            woken.wait()
        self._user_waits = True
        due_s = next(self._due_s, None)
        if due_s is not None and (wait_s := self._started + due_s - perf_counter()) > 0:
            gevent.sleep(wait_s)
        if self._parked:
            self._parked.pop().set()
        else:
            self._user_waits = False
        return None if self.ended or due_s is None else self._started + due_s


def constant_times(rate_rps: float, phase: float = 0.0) -> Iterator[float]:
    """Due times at equal distances; the first one after ``phase`` of the distance."""
    return ((number + phase) / rate_rps for number in itertools.count())


def arrivals_of(plan: LoadPlan) -> ClosedLoop:
    """The arrival process of a plan, which begins now."""
    if plan.due_s is not None:
        return OpenLoop(iter(plan.due_s))
    if (rate_rps := plan.rate_rps) is None:
        return ClosedLoop()
    if plan.arrivals == "constant":
        return OpenLoop(constant_times(rate_rps, plan.phase))
    rng = random.Random(plan.random_seed)  # a Poisson process: the gaps are exponential
    return OpenLoop(itertools.accumulate(iter(lambda: rng.expovariate(rate_rps), None)))


class Recorder:
    """Collects the requests of all users of one level.

    Attributes:
        good: number of requests that were answered with 200.
        opened: when the windows did; infinite before.
        in_flight_since: by user, when its present request was due; infinite while it has none.
        answered: by user, whether its first request has ended.
    """

    def __init__(self, users: int, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._rows: list[tuple[int, float, float, float, int, int, int, int]] = []
        self._answers: list[bytes] = []
        self.good = 0
        self.opened = math.inf
        self.in_flight_since = [math.inf] * users
        self.answered = [False] * users

    def add(
        self, user: int, body: int, due: float, sent: float, end: float, code: int, content: bytes
    ) -> bool:
        """Record one request; return whether it was answered with 200."""
        if code == 200:
            status = OK
        elif code == 0 and end - sent >= self._timeout_s:
            status = TIMED_OUT
        else:
            status = FAILED
        self._rows.append((user, due, sent, end, status, code, len(content), body))
        self._answers.append(content if len(content) <= MAX_ANSWER_BYTES else b"")
        self.good += status == OK
        self.answered[user] = True
        return status == OK

    @property
    def sent(self) -> int:
        """Number of requests that have ended or are in flight."""
        return len(self._rows) + sum(since < math.inf for since in self.in_flight_since)

    def arrays(self) -> dict[str, Any]:
        """The recorded requests as one array per field."""
        names = ("user", "start", "sent", "end", "status", "code", "size", "body")
        columns = dict(zip(names, np.array(self._rows, dtype=np.float64).reshape(-1, 8).T, strict=True))
        for name in ("user", "status", "code", "size", "body"):
            columns[name] = columns[name].astype(np.int64)
        return {**columns, "answer": np.array(self._answers, dtype=np.bytes_)}

    def steady(self, edges: list[float]) -> bool:
        """Whether the windows between ``edges``, whose requests have all ended, agree."""
        good = [(start, end) for _, start, _, end, status, *_ in self._rows if status == OK]
        if not good:
            return False
        (start, end), windows = np.array(good).T, np.array(edges)
        return steady(*window_means(start, end, windows), fewest_answers(end, windows))


Edge = tuple[float, float]
"""When a window begins or ends, and this process's CPU time then, seconds."""


def run_level(url: str, requests: Sequence[tuple[bytes, bytes]], plan: LoadPlan, path: Path) -> None:
    """Run one level and write its record to ``path``.

    Args:
        requests: head and body of each.
    """
    recorder = Recorder(plan.users, plan.timeout_s)
    progress = gevent.spawn(report_progress, recorder)
    if plan.begin_at is not None:
        sleep_until(plan.begin_at)
    edges = [(started := perf_counter(), process_time())]
    arrivals = arrivals_of(plan)
    users = start_users(url, requests, plan, arrivals, recorder)

    # In a closed loop the warm-up starts when every user has had an answer or a timeout.
    if plan.begin_at is not None:
        edges = measure_at(plan, plan.begin_at + plan.warmup_s, recorder)
    elif plan.rate_rps is not None or wait_for_first_answers(plan, recorder):
        gevent.sleep(plan.warmup_s)
        edges = measure(plan, recorder)
    else:
        while recorder.sent < plan.requests and perf_counter() < started + plan.max_s:
            gevent.sleep(TICK_S)

    arrivals.ended = True
    wait_until(lambda: min(recorder.in_flight_since) == math.inf)
    if len(edges) == 1:
        edges.append((perf_counter(), process_time()))
    gevent.killall([progress, *users])  # users may still wait for a request to become due
    times, cpu_s = np.array(edges).T
    reported = slice(-WINDOWS - 1, None)
    cores = np.ptp(cpu_s[reported]) / np.ptp(times[reported])
    np.savez(path, window_edges=times, cores=cores, **recorder.arrays())


def start_users(
    url: str,
    requests: Sequence[tuple[bytes, bytes]],
    plan: LoadPlan,
    arrivals: ClosedLoop,
    recorder: Recorder,
) -> list[gevent.Greenlet]:
    """Start the users, who send ``requests`` in turn until the level has ended.

    What one of them raises is raised in the main greenlet, where it ends this process.
    """
    main = gevent.getcurrent()
    order = plan.bodies
    if order is None:
        order = list(range(len(requests)))
        random.Random(plan.random_seed).shuffle(order)
    request_indices = itertools.cycle(order)
    pause_s = PAUSE_AFTER_FAILURE_S if plan.rate_rps is None else 0.0

    def use(number: int) -> None:
        connection = Connection(url, plan.timeout_s)
        try:
            while (due := arrivals.wait()) is not None:
                index = next(request_indices)
                request = b"".join(requests[index])
                recorder.in_flight_since[number] = due
                sent = perf_counter()
                code, content = connection.send(request)
                end = perf_counter()
                recorder.in_flight_since[number] = math.inf
                if not recorder.add(number, index, due, sent, end, code, content):
                    gevent.sleep(pause_s)
        except Exception as error:
            gevent.kill(main, error)
        finally:
            connection.close()

    return [gevent.spawn(use, number) for number in range(plan.users)]


def report_progress(recorder: Recorder) -> None:
    """Say all the time how far the level is, so that it can be stopped at any time."""
    while True:
        gevent.sleep(PROGRESS_S)
        emit("progress", round(max(0.0, perf_counter() - recorder.opened), 2))


def measure_at(plan: LoadPlan, opened: float, recorder: Recorder) -> list[Edge]:
    """Measure three windows that open at a given time and last ``plan.min_s`` together."""
    recorder.opened = opened
    edges = []
    for number in range(WINDOWS + 1):
        sleep_until(edge := opened + number * plan.min_s / WINDOWS)
        edges.append((edge, process_time()))
    wait_until(lambda: min(recorder.in_flight_since) >= edge)
    return edges


def wait_for_first_answers(plan: LoadPlan, recorder: Recorder) -> bool:
    """Wait until every user has had an answer or a timeout; False where ``plan.give_up_s`` is over before."""
    give_up_at = math.inf if plan.give_up_s is None else perf_counter() + plan.give_up_s
    wait_until(lambda: all(recorder.answered) or perf_counter() > give_up_at)
    return all(recorder.answered)


def measure(plan: LoadPlan, recorder: Recorder) -> list[Edge]:
    """Measure windows until the last three agree, or ``max_windows`` are complete.

    A window is complete when every request that overlaps it has ended; meanwhile the load goes on.
    """
    edges = [(perf_counter(), process_time())]
    recorder.opened = edges[0][0]
    good_at_edge = recorder.good
    complete = 0
    while True:
        gevent.sleep(TICK_S)
        now, answers = perf_counter(), recorder.good - good_at_edge
        # Checked at ticks, not at answers, so that a window does not end exactly at an answer.
        seconds = now - edges[-1][0]
        enough = seconds >= plan.min_s / WINDOWS and answers >= plan.requests / WINDOWS
        if len(edges) <= plan.max_windows and (enough or seconds >= plan.max_s / WINDOWS):
            edges.append((now, process_time()))
            good_at_edge = recorder.good
        times = [time for time, _ in edges]
        newly_complete = bisect.bisect_right(times, min(recorder.in_flight_since)) - 1
        if newly_complete > complete:
            complete = newly_complete
            # Poisson arrivals vary too much for the stopping rule.
            agree = complete >= WINDOWS and (
                plan.rate_rps is not None or recorder.steady(times[complete - WINDOWS : complete + 1])
            )
            if agree or complete >= plan.max_windows:
                return edges[: complete + 1]


def sleep_until(time: float) -> None:
    """Sleep until ``time`` on the monotonic clock, while the users go on."""
    gevent.sleep(max(0.0, time - perf_counter()))


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until ``condition`` holds, while the users go on."""
    while not condition():
        gevent.sleep(TICK_S)


def emit(event: str, *values: float) -> None:
    """Print an event as a line of JSON, which ``LoadGenerator`` reads."""
    print(json.dumps([event, *values]), flush=True)


def main() -> None:
    """Run the load of each line of standard input (JSON: url, plan, path of the record)."""
    settings = json.loads(sys.argv[1])
    bodies = [path.read_bytes() for path in sorted(Path(settings["folder"]).glob("*.body"))]
    emit("ready")
    for line in sys.stdin:
        job = json.loads(line)
        heads = [post_head(job["url"], settings["headers"], len(body)) for body in bodies]
        requests = list(zip(heads, bodies, strict=True))
        plan = LoadPlan(**job["plan"])
        if plan.begin_at is not None and (late_s := perf_counter() - plan.begin_at - plan.warmup_s) > 0:
            emit("late", round(late_s, 3))
            continue
        run_level(job["url"], requests, plan, Path(job["path"]))
        emit("done")


if __name__ == "__main__":
    main()
