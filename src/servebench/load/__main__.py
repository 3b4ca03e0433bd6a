"""The load generator's process: ``python -m servebench.load ORDER``, started by ``generate``.

A closed loop on Locust's FastHttpUser: each user sends its next request when the last one has been
answered. Locust schedules users and speaks HTTP; the clock and the record are our own, since its
own are wall-clock and rounded.
"""

# ruff: noqa: I001 -- locust must come first: it patches the standard library for gevent
from locust import FastHttpUser, constant, task
from locust.env import Environment
from locust.exception import StopUser

import itertools
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import gevent
import numpy as np

from servebench.load.generator import FAILED, OK, TIMED_OUT, LevelPlan

TICK_S = 0.05
GRACE_S = 10.0
REPORT_EVERY = 5
"""Ticks between two lines of progress."""
PAUSE_AFTER_FAILURE_S = 0.1
"""A refused connection fails in microseconds: without a pause, users would spin on it."""


class Recorder:
    """All requests of one level, and whether its users shall go on."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, float, float, int, int, int]] = []
        self.good = 0
        self.answered_users: set[int] = set()
        self.stopping = False

    def add(self, user: int, start: float, end: float, response: Any, timeout_s: float) -> bool:
        """Record one request; whether it was answered well."""
        code = response.status_code or 0
        if code == 200:
            status = OK
        elif code == 0 and end - start >= timeout_s:
            status = TIMED_OUT
        else:
            status = FAILED
        self.rows.append((user, start, end, status, code, len(response.content or b"")))
        self.good += status == OK
        self.answered_users.add(user)
        return status == OK


def user_class(order: dict[str, Any], bodies: list[bytes], plan: LevelPlan, recorder: Recorder) -> Any:
    """A Locust user class whose users send ``bodies``, each in a random order of its own."""
    numbers = itertools.count()
    headers = {"Content-Type": order["content_type"]}

    class ClosedLoopUser(FastHttpUser):
        """One user: one connection, one request under way."""

        wait_time = constant(0)
        host = order["url"]
        connection_timeout = plan.timeout_s
        network_timeout = plan.timeout_s

        def on_start(self) -> None:
            """Take a number, and an order of the bodies that follows from it."""
            self.number = next(numbers)
            self.bodies: Iterator[bytes] = itertools.cycle(
                random.Random(f"{plan.seed}/{self.number}").sample(bodies, len(bodies))
            )

        @task
        def send(self) -> None:
            """Send one request and record it; end with the level."""
            if recorder.stopping:
                raise StopUser
            body = next(self.bodies)
            start = perf_counter()
            response = self.client.post("", data=body, headers=headers)
            end = perf_counter()
            if not recorder.add(self.number, start, end, response, plan.timeout_s):
                gevent.sleep(PAUSE_AFTER_FAILURE_S)

    return ClosedLoopUser


def run_level(order: dict[str, Any], bodies: list[bytes], plan: LevelPlan, path: Path) -> None:
    """Run one level and write its record to ``path``."""
    recorder = Recorder()
    environment = Environment(user_classes=[user_class(order, bodies, plan, recorder)])
    runner = environment.create_local_runner()
    runner.start(plan.users, spawn_rate=plan.users)

    # Every user has had an answer, or waited its full time for one; then the warm-up proper.
    wait_until(lambda: len(recorder.answered_users) == plan.users, plan, "every user had an answer")
    gevent.sleep(plan.warmup_s)

    opened, before = perf_counter(), recorder.good
    for tick in itertools.count():
        gevent.sleep(TICK_S)
        seconds, answers = perf_counter() - opened, recorder.good - before
        if tick % REPORT_EVERY == 0:
            print(json.dumps([plan.users, answers, round(seconds, 2)]), flush=True)
        # Looked at once a tick, not at each answer, so that the window does not end on an answer.
        if seconds >= plan.max_s or (seconds >= plan.min_s and answers >= plan.requests):
            break
    closed = perf_counter()

    recorder.stopping = True
    wait_until(lambda: runner.user_count == 0, plan, "the last requests ended")
    runner.quit()

    user, start, end, status, code, size = np.array(recorder.rows).T
    np.savez(
        path,
        users=plan.users,
        window=np.array([opened, closed]),
        user=user.astype(np.int64),
        start=start,
        end=end,
        status=status.astype(np.int64),
        code=code.astype(np.int64),
        size=size.astype(np.int64),
    )


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
