"""The load generator's process: ``python -m servebench.load ORDER``, started by ``generate``.

A closed loop on Locust's FastHttpUser: each user sends its next request when the last one has been
answered. Locust schedules users and speaks HTTP; the clock and the record are our own, since its
own are wall-clock and rounded.
"""

# ruff: noqa: I001 -- locust must come first: it patches the standard library for gevent
from locust import FastHttpUser, constant, task
from locust.env import Environment
from locust.exception import StopUser

import bisect
import itertools
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import gevent
import numpy as np

from servebench.load.generator import FAILED, OK, TIMED_OUT, LevelPlan
from servebench.measure.steady import WINDOWS, steady, window_means

TICK_S = 0.05
GRACE_S = 10.0
REPORT_EVERY = 5
"""Ticks between two lines of progress."""
PAUSE_AFTER_FAILURE_S = 0.1
"""A refused connection fails in microseconds: without a pause, users would spin on it."""


KEPT_BYTES = 65_536
"""A longer answer is counted and not kept."""


class Recorder:
    """All requests of one level, and whether its users shall go on."""

    def __init__(self, users: int) -> None:
        self.rows: list[tuple[int, float, float, int, int, int, int]] = []
        self.answers: list[bytes] = []
        self.good = 0
        self.stopping = False
        self.under_way_since = [-float("inf")] * users
        self.answered = [False] * users

    def add(self, user: int, body: int, start: float, end: float, response: Any, timeout_s: float) -> bool:
        """Record one request; whether it was answered well."""
        code = response.status_code or 0
        content = response.content or b""
        if code == 200:
            status = OK
        elif code == 0 and end - start >= timeout_s:
            status = TIMED_OUT
        else:
            status = FAILED
        self.rows.append((user, start, end, status, code, len(content), body))
        self.answers.append(content if len(content) <= KEPT_BYTES else b"")
        self.good += status == OK
        self.answered[user] = True
        return status == OK

    def arrays(self) -> dict[str, Any]:
        """The record as one array per field."""
        user, start, end, status, code, size, body = np.array(self.rows).T
        counts = {"user": user, "status": status, "code": code, "size": size, "body": body}
        whole = {name: values.astype(np.int64) for name, values in counts.items()}
        return whole | {"start": start, "end": end, "answer": np.array(self.answers, dtype=np.bytes_)}

    def steady(self, edges: list[float]) -> bool:
        """Whether the windows between ``edges``, whose requests have all ended, agree."""
        record = np.array([(start, end) for _, start, end, status, *_ in self.rows if status == OK])
        if len(record) == 0:
            return False
        return steady(*window_means(record[:, 0], record[:, 1], np.array(edges)))


def user_class(order: dict[str, Any], bodies: list[bytes], plan: LevelPlan, recorder: Recorder) -> Any:
    """A Locust user class whose users take turns at ``bodies``, in a random order."""
    numbers = itertools.count()
    places = list(range(len(bodies)))
    random.Random(f"{plan.seed}/{plan.users}").shuffle(places)
    turns = itertools.cycle(places)

    class ClosedLoopUser(FastHttpUser):
        """One user: one connection, one request under way."""

        wait_time = constant(0)
        host = order["url"]
        connection_timeout = plan.timeout_s
        network_timeout = plan.timeout_s

        def on_start(self) -> None:
            """Take a number."""
            self.number = next(numbers)

        @task
        def send(self) -> None:
            """Send one request and record it; end with the level."""
            if recorder.stopping:
                raise StopUser
            place = next(turns)
            start = perf_counter()
            recorder.under_way_since[self.number] = start
            response = self.client.post("", data=bodies[place], headers=order["headers"])
            end = perf_counter()
            if not recorder.add(self.number, place, start, end, response, plan.timeout_s):
                gevent.sleep(PAUSE_AFTER_FAILURE_S)

    return ClosedLoopUser


def run_level(order: dict[str, Any], bodies: list[bytes], plan: LevelPlan, path: Path) -> None:
    """Run one level and write its record to ``path``."""
    recorder = Recorder(plan.users)
    environment = Environment(user_classes=[user_class(order, bodies, plan, recorder)])
    runner = environment.create_local_runner()
    runner.start(plan.users, spawn_rate=plan.users)

    # Every user has had an answer, or waited its full time for one; then the warm-up proper.
    wait_until(lambda: all(recorder.answered), plan, "every user had an answer")
    gevent.sleep(plan.warmup_s)

    edges = measure(plan, recorder)

    recorder.stopping = True
    wait_until(lambda: runner.user_count == 0, plan, "the last requests ended")
    runner.quit()
    np.savez(path, users=plan.users, edges=np.array(edges), **recorder.arrays())


def measure(plan: LevelPlan, recorder: Recorder) -> list[float]:
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
        settled = bisect.bisect_right(edges, min(recorder.under_way_since)) - 1
        if settled > judged:
            judged = settled
            last = edges[max(0, judged - WINDOWS) : judged + 1]
            if judged >= plan.max_windows or (judged >= WINDOWS and recorder.steady(last)):
                return edges[: judged + 1]
    raise AssertionError("the count has no end")


def tell(kind: str, *values: float) -> None:
    """One line for whoever started us."""
    print(json.dumps([kind, *values]), flush=True)


def wait_until(condition: Callable[[], bool], plan: LevelPlan, what: str) -> None:
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
    bodies = [path.read_bytes() for path in sorted(folder.glob("*.body"))]
    for number, level in enumerate(order["plan"]):
        run_level(order, bodies, LevelPlan(**level), folder / f"level-{number}.npz")


if __name__ == "__main__":
    main()
