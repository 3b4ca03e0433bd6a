"""Jobs side by side: what fails or is interrupted ends them all, on real processes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import psutil
import pytest

from litmeter.system.processes import OnStart, process_group, run_parallel

GENEROUS_S = 30.0
"""Of the 600 s that the processes would run."""


def wait_for_process(begun: list[int], on_start: OnStart) -> None:
    with process_group(["sleep", "600"]) as process:
        begun.append(process.pid)
        on_start(process)
        process.wait()


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


def test_results_are_in_the_order_of_the_jobs() -> None:
    first_may_end = threading.Event()
    assert run_parallel([lambda _: first_may_end.wait(), lambda _: first_may_end.set()], 2) == [True, None]


@pytest.mark.parametrize("place", [0, 1])
def test_one_that_fails_ends_the_others_and_those_that_wait_do_not_begin(place: int) -> None:
    begun: list[int] = []

    def fail(_: OnStart) -> None:
        until(lambda: bool(begun))
        raise ValueError("no such package")

    wait = partial(wait_for_process, begun)
    jobs = [wait, wait, wait]
    jobs.insert(place, fail)
    before = time.monotonic()
    with pytest.raises(ValueError, match="no such package"):
        run_parallel(jobs, 2)
    assert time.monotonic() - before < GENEROUS_S
    assert len(begun) <= 2  # the thread of the one that failed may have begun another
    assert not any(psutil.pid_exists(pid) for pid in begun)


@pytest.fixture
def _heeds_ctrl_c() -> Iterator[None]:
    """A shell has what it runs in the background ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_heeds_ctrl_c")
def test_ctrl_c_ends_them_at_once() -> None:
    begun: list[int] = []

    def press() -> None:
        until(lambda: len(begun) == 2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    before = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_parallel([partial(wait_for_process, begun)] * 3, 2)
    assert time.monotonic() - before < GENEROUS_S
    assert not any(psutil.pid_exists(pid) for pid in begun)
