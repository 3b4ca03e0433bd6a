"""The load generator's process: ``python -m servebench.loadgen ORDER``, started by ``generate``.

Locust schedules the users; the clock and the record are our own, since its own are wall-clock and rounded.
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
from time import perf_counter
from typing import Any

import gevent
import numpy as np

from servebench.loadgen.arrivals import Arrivals, ClosedLoop, Poisson
from servebench.loadgen.connection import Connection, post_request
from servebench.loadgen.generator import LoadPlan
from servebench.loadgen.recorder import Recorder
from servebench.stats.stability import WINDOWS

TICK_S = 0.05
GRACE_S = 10.0
REPORT_EVERY = 5
"""Ticks between two lines of progress."""
PAUSE_AFTER_FAILURE_S = 0.1
"""A refused connection fails in microseconds: without a pause, users of a closed loop would spin on it."""


def user_class(
    url: str, requests: Sequence[bytes], plan: LoadPlan, arrivals: Arrivals, recorder: Recorder
) -> Any:
    """A Locust user class whose users take turns at ``requests``, in a random order."""
    numbers = itertools.count()
    places = list(range(len(requests)))
    random.Random(plan.random_seed).shuffle(places)
    turns = itertools.cycle(places)
    pause_s = PAUSE_AFTER_FAILURE_S if plan.rate_rps is None else 0.0

    class OneUser(User):
        """One connection, one request in flight."""

        wait_time = constant(0)

        def on_start(self) -> None:
            """Take a number."""
            self.number = next(numbers)
            self.connection = Connection(url, plan.timeout_s)

        def on_stop(self) -> None:
            """Leave nothing open."""
            self.connection.close()

        @task
        def send(self) -> None:
            """Send requests until the level ends: Locust is asked once, not between any two of them."""
            while (due := arrivals.wait()) is not None:
                place = next(turns)
                recorder.in_flight_since[self.number] = due
                sent = perf_counter()
                code, content = self.connection.send(requests[place])
                end = perf_counter()
                recorder.in_flight_since[self.number] = math.inf
                if not recorder.add(self.number, place, due, sent, end, code, content):
                    gevent.sleep(pause_s)
            raise StopUser

    return OneUser


def run_level(url: str, requests: Sequence[bytes], plan: LoadPlan, path: Path) -> None:
    """Run one level and write its record to ``path``."""
    arrivals = ClosedLoop() if plan.rate_rps is None else Poisson(plan.rate_rps, plan.random_seed)
    recorder = Recorder(plan.users, plan.timeout_s)
    environment = Environment(user_classes=[user_class(url, requests, plan, arrivals, recorder)])
    runner = environment.create_local_runner()
    runner.start(plan.users, spawn_rate=plan.users)

    # In a closed loop every user has had an answer, or waited its full time for one; then the warm-up proper.
    if plan.rate_rps is None:
        wait_until(lambda: all(recorder.answered), plan, "every user had an answer")
    gevent.sleep(plan.warmup_s)

    edges = measure(plan, recorder)

    arrivals.ended = True
    wait_until(lambda: min(recorder.in_flight_since) == math.inf, plan, "the last requests ended")
    runner.quit()
    np.savez(path, window_edges=np.array(edges), **recorder.arrays())


def measure(plan: LoadPlan, recorder: Recorder) -> list[float]:
    """Let windows pass until the last three agree, or there have been enough; their edges.

    A window is judged once every request that it had a part in has ended, while the load goes on.
    """
    edges = [perf_counter()]
    first = before = recorder.good
    judged = 0
    tell("edge", plan.users, 0)
    for tick in itertools.count():
        gevent.sleep(TICK_S)
        now, answers = perf_counter(), recorder.good - before
        if tick % REPORT_EVERY == 0:
            tell("progress", plan.users, recorder.good - first, round(now - edges[0], 2))
        # Looked at once a tick, not at each answer, so that a window does not end on an answer.
        seconds = now - edges[-1]
        enough = seconds >= plan.min_s / WINDOWS and answers >= plan.requests / WINDOWS
        if len(edges) <= plan.max_windows and (enough or seconds >= plan.max_s / WINDOWS):
            edges.append(now)
            before = recorder.good
            tell("edge", plan.users, len(edges) - 1)
        settled = bisect.bisect_right(edges, min(recorder.in_flight_since)) - 1
        if settled > judged:
            judged = settled
            last = edges[max(0, judged - WINDOWS) : judged + 1]
            # Poisson's arrivals are never steady.
            settles = judged >= WINDOWS and (plan.rate_rps is not None or recorder.steady(last))
            if settles or judged >= plan.max_windows:
                return edges[: judged + 1]
    raise AssertionError("the count has no end")


def tell(kind: str, *values: float) -> None:
    """One line for whoever started us."""
    print(json.dumps([kind, *values]), flush=True)


def wait_until(condition: Callable[[], bool], plan: LoadPlan, what: str) -> None:
    """Wait for what happens within a request's timeout, unless a user has failed in its own code.

    Raises:
        TimeoutError: it did not happen. Locust logs the reason, and lets the user go on for ever.
    """
    deadline = perf_counter() + plan.timeout_s + GRACE_S
    while not condition():
        if perf_counter() > deadline:
            raise TimeoutError(f"{plan.timeout_s + GRACE_S:g} s have passed before {what}")
        gevent.sleep(TICK_S)


def main() -> None:
    """Run the levels of the order file."""
    order = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    folder = Path(order["folder"])
    url, headers = order["url"], order["headers"]
    requests = [post_request(url, headers, path.read_bytes()) for path in sorted(folder.glob("*.body"))]
    for number, level in enumerate(order["plan"]):
        run_level(url, requests, LoadPlan(**level), folder / f"level-{number}.npz")


if __name__ == "__main__":
    main()
