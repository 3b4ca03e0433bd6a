"""The load generator's process: ``python -m litmeter.loadgen SETTINGS``, started by ``load_generator``.

Locust schedules the users. Times are taken and recorded here, as Locust rounds them and uses the wall clock.
"""

# ruff: noqa: I001 -- locust must come first: it patches the standard library for gevent
from locust import User, constant, task
from locust.env import Environment
from locust.exception import StopUser

import bisect
import itertools
import json
import math
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import gevent
import numpy as np

from litmeter.loadgen.arrivals import (
    Arrivals,
    ClosedLoop,
    OpenLoop,
    constant_times,
    poisson_times,
)
from litmeter.loadgen.connection import Connection, post_head
from litmeter.loadgen.generator import LoadPlan
from litmeter.loadgen.recorder import Recorder
from litmeter.stats.records import WINDOWS

TICK_S = 0.05
GRACE_S = 10.0
PROGRESS_TICKS = 5
"""Ticks between two progress events."""
PAUSE_AFTER_FAILURE_S = 0.1
"""A refused connection fails in microseconds: without a pause, users of a closed loop would spin on it."""


def user_class(
    url: str, requests: Sequence[tuple[bytes, bytes]], plan: LoadPlan, arrivals: Arrivals, recorder: Recorder
) -> Any:
    """A Locust user class whose users send ``requests`` (head and body) in turn."""
    user_numbers = itertools.count()
    order = plan.bodies
    if order is None:
        order = list(range(len(requests)))
        random.Random(plan.random_seed).shuffle(order)
    request_indices = itertools.cycle(order)
    pause_s = PAUSE_AFTER_FAILURE_S if plan.rate_rps is None else 0.0

    class OneUser(User):
        """A user with one connection and one request in flight."""

        wait_time = constant(0)

        def on_start(self) -> None:
            """Number the user, and give it a connection."""
            self.number = next(user_numbers)
            self.connection = Connection(url, plan.timeout_s)

        def on_stop(self) -> None:
            """Close the connection."""
            self.connection.close()

        @task
        def send(self) -> None:
            """Send requests until the level ends; one Locust task, as each task costs CPU time."""
            while (due := arrivals.wait()) is not None:
                index = next(request_indices)
                request = b"".join(requests[index])
                recorder.in_flight_since[self.number] = due
                sent = perf_counter()
                code, content = self.connection.send(request)
                end = perf_counter()
                recorder.in_flight_since[self.number] = math.inf
                if not recorder.add(self.number, index, due, sent, end, code, content):
                    gevent.sleep(pause_s)
            raise StopUser

    return OneUser


def arrivals_of(plan: LoadPlan) -> Arrivals:
    """The arrival process of a plan."""
    if plan.due_s is not None:
        return OpenLoop(iter(plan.due_s))
    if plan.rate_rps is None:
        return ClosedLoop()
    if plan.arrivals == "constant":
        return OpenLoop(constant_times(plan.rate_rps, plan.phase))
    return OpenLoop(poisson_times(plan.rate_rps, plan.random_seed))


def run_level(url: str, requests: Sequence[tuple[bytes, bytes]], plan: LoadPlan, path: Path) -> None:
    """Run one level and write its record to ``path``."""
    if plan.begin_at is not None:
        gevent.sleep(max(0.0, plan.begin_at - perf_counter()))
    arrivals = arrivals_of(plan)
    recorder = Recorder(plan.users, plan.timeout_s)
    environment = Environment(user_classes=[user_class(url, requests, plan, arrivals, recorder)])
    runner = environment.create_local_runner()
    whole = Edges(started := perf_counter())
    if plan.give_up_s is not None:
        emit("edge", plan.users, 0)  # the only window begins here, if the first answers take too long
    runner.start(plan.users, spawn_rate=plan.users)

    # In a closed loop the warm-up starts when every user has had an answer or a timeout.
    if plan.begin_at is not None:
        edges = measure_at(plan, plan.begin_at + plan.warmup_s, recorder)
    elif plan.rate_rps is not None or wait_for_first_answers(plan, recorder):
        gevent.sleep(plan.warmup_s)
        edges = measure(plan, recorder)
    else:
        while recorder.sent < plan.requests and perf_counter() < started + plan.max_s:
            gevent.sleep(TICK_S)
        edges = whole

    arrivals.ended = True
    wait_until(lambda: min(recorder.in_flight_since) == math.inf, plan, "the last requests ended")
    if len(edges.times) == 1:
        edges.add(perf_counter())
        emit("edge", plan.users, 1)
    runner.quit()
    np.savez(path, window_edges=np.array(edges.times), cores=edges.cores(), **recorder.arrays())


class Edges:
    """The edges of windows, and this process's CPU time at each."""

    def __init__(self, first: float) -> None:
        self.times, self._cpu_s = [first], [process_time()]

    def add(self, time: float) -> None:
        """Add an edge at the present time."""
        self.times.append(time)
        self._cpu_s.append(process_time())

    def end_at(self, last: int) -> None:
        """Forget the edges after the index ``last``."""
        del self.times[last + 1 :], self._cpu_s[last + 1 :]

    def cores(self) -> float:
        """CPU use of this process in the reported windows, in cores."""
        times, cpu_s = self.times[-WINDOWS - 1 :], self._cpu_s[-WINDOWS - 1 :]
        return (cpu_s[-1] - cpu_s[0]) / (times[-1] - times[0])


def measure_at(plan: LoadPlan, opened: float, recorder: Recorder) -> Edges:
    """Measure three windows that open at a given time and last ``plan.min_s`` together."""
    gevent.sleep(max(0.0, opened - perf_counter()))
    edges, good_at_start = Edges(opened), recorder.good
    emit("edge", plan.users, 0)
    for number in range(1, WINDOWS + 1):
        edge = opened + number * plan.min_s / WINDOWS
        while (left_s := edge - perf_counter()) > 0:
            gevent.sleep(min(left_s, PROGRESS_TICKS * TICK_S))
            seconds = round(perf_counter() - opened, 2)
            emit("progress", plan.users, recorder.good - good_at_start, seconds)
        edges.add(edge)
        emit("edge", plan.users, number)
    wait_until(
        lambda: min(recorder.in_flight_since) >= edges.times[-1],
        plan,
        "the windows were complete",
        lambda: recorder.ended,  # where the server is overloaded, requests still wait to be sent
    )
    return edges


def wait_for_first_answers(plan: LoadPlan, recorder: Recorder) -> bool:
    """Wait until every user has had an answer or a timeout; False where ``plan.give_up_s`` is over before."""
    give_up_at = math.inf if plan.give_up_s is None else perf_counter() + plan.give_up_s
    wait_until(
        lambda: all(recorder.answered) or perf_counter() > give_up_at, plan, "every user had an answer"
    )
    return all(recorder.answered)


def measure(plan: LoadPlan, recorder: Recorder) -> Edges:
    """Measure windows until the last three agree, or ``max_windows`` are complete.

    A window is complete when every request that overlaps it has ended; meanwhile the load goes on.
    """
    windows = Edges(perf_counter())
    edges = windows.times
    good_at_start = good_at_edge = recorder.good
    complete = 0
    emit("edge", plan.users, 0)
    for tick in itertools.count():
        gevent.sleep(TICK_S)
        now, answers = perf_counter(), recorder.good - good_at_edge
        if tick % PROGRESS_TICKS == 0:
            emit("progress", plan.users, recorder.good - good_at_start, round(now - edges[0], 2))
        # Checked at ticks, not at answers, so that a window does not end exactly at an answer.
        seconds = now - edges[-1]
        enough = seconds >= plan.min_s / WINDOWS and answers >= plan.requests / WINDOWS
        if len(edges) <= plan.max_windows and (enough or seconds >= plan.max_s / WINDOWS):
            windows.add(now)
            good_at_edge = recorder.good
            emit("edge", plan.users, len(edges) - 1)
        newly_complete = bisect.bisect_right(edges, min(recorder.in_flight_since)) - 1
        if newly_complete > complete:
            complete = newly_complete
            last_edges = edges[max(0, complete - WINDOWS) : complete + 1]
            # Poisson arrivals vary too much for the stopping rule.
            agree = complete >= WINDOWS and (plan.rate_rps is not None or recorder.steady(last_edges))
            if agree or complete >= plan.max_windows:
                windows.end_at(complete)
                return windows
    raise AssertionError("itertools.count has no end")


def emit(event: str, *values: float) -> None:
    """Print an event as a line of JSON, which ``LoadGenerator`` reads."""
    print(json.dumps([event, *values]), flush=True)


def wait_until(
    condition: Callable[[], bool], plan: LoadPlan, event: str, progress: Callable[[], int] = lambda: 0
) -> None:
    """Wait until ``condition`` holds, which takes a request's timeout at most unless a user has failed.

    Args:
        progress: the time starts anew whenever this has changed.

    Raises:
        TimeoutError: it took longer. Locust logs a user's exception, and lets the user go on for ever.
    """
    last, deadline = progress(), perf_counter() + plan.timeout_s + GRACE_S
    while not condition():
        if (now := progress()) != last:
            last, deadline = now, perf_counter() + plan.timeout_s + GRACE_S
        if perf_counter() > deadline:
            raise TimeoutError(f"{plan.timeout_s + GRACE_S:g} s have passed before {event}")
        gevent.sleep(TICK_S)


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
