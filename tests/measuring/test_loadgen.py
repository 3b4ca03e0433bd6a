"""The load generator and the measuring, against a stub server of known latency and rate."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
import psutil
import pytest

from litmeter.classifier.server.client import CONTENT_TYPES
from litmeter.errors import LoadError
from litmeter.load import LoadPlan, load_generator
from litmeter.load.stub import running_stub as stub
from litmeter.measure.figures import machine_row, served_row
from litmeter.measure.rows import TurnRow
from litmeter.measure.telemetry import Usage
from litmeter.measure.turn import Turn
from litmeter.stats.records import FAILED, OK, TIMED_OUT, LoadRecord
from litmeter.system.processes import process_group
from tests.support.load import plan
from tests.support.servers import APIS, free_port, healthy

JSON = CONTENT_TYPES["json"]
BODIES = [b"%d" % number for number in range(12)]


def row_of(level: LoadRecord, settles: bool = False) -> TurnRow:
    load = plan(level.users, max_windows=5 if settles else 3)
    turn = Turn("stub", load)
    return served_row(machine_row(turn, 0, 0.0, 1.0, Usage()), turn, level, Usage())


def load(url: str, *plans: LoadPlan, **callbacks: Any) -> list[LoadRecord]:
    with load_generator(BODIES, JSON) as generator:
        return [generator.run(url, plan, **callbacks) for plan in plans]


def inside(level: LoadRecord) -> np.ndarray:
    opened, closed = level.window
    return (level.status == OK) & (level.end > opened) & (level.end <= closed)


def test_rate_and_latency_agree_with_the_servers_own_log() -> None:
    """Of a server that is fast enough not to be given up, with all users busy throughout."""
    parallel, users = 4, 12
    with stub(service_s=0.05, parallel=parallel) as server:
        [level] = load(server.url, plan(users, give_up_s=2.0))
        log = server.log()
    row = row_of(level)
    opened, closed = level.window
    logged = log[(log[:, 1] > opened) & (log[:, 1] <= closed)]
    there_s = logged[:, 1] - logged[:, 0]
    # The client sees what the server sees, plus its own few tenths of a millisecond.
    assert row.rate_rps == pytest.approx(len(logged) / (closed - opened), rel=0.1)
    assert row.p50_ms == pytest.approx(np.median(there_s) * 1000, rel=0.05, abs=3)
    # Little's law: the users are where the requests are.
    latency_s = (level.end - level.start)[inside(level)].mean()
    assert row.rate_rps * latency_s == pytest.approx(users, rel=0.1)
    # Queueing arithmetic, as far as an event loop keeps its own times.
    assert row.rate_rps == pytest.approx(parallel / 0.05, rel=0.15)
    assert row.sent == len(log)
    assert row.failed == row.timed_out == 0
    assert len(level.window_edges) == 4
    assert set(level.user) == set(range(users))
    for user in range(users):
        own = level.user == user
        assert level.start[own].min() < opened
        assert level.end[own].max() > closed
        gaps = level.start[own][1:] - level.end[own][:-1]
        assert gaps.min() >= 0
        assert np.median(gaps) < 0.02


def test_a_level_ends_after_its_answers_and_its_time() -> None:
    with stub(service_s=0.01, parallel=4) as (url, *_):
        short, long = load(
            url,
            plan(4, requests=1, min_s=1.0, max_s=9.0),
            plan(4, requests=600, min_s=0.1, max_s=60.0),
        )
    assert short.window[1] - short.window[0] == pytest.approx(1.0, abs=0.5)
    assert inside(long).sum() >= 600
    assert len(short.window_edges) == len(long.window_edges) == 4


def test_an_open_loop_keeps_its_rate_whatever_the_server_does() -> None:
    """At half of what the server can do, and at twice that: what came is the same, latency is not."""
    plans = [plan(32, rate_rps=rate, min_s=2.0, max_s=2.0, timeout_s=30.0) for rate in (50.0, 200.0)]
    with stub(service_s=0.02, parallel=2) as (url, *_):
        half, twice = load(url, *plans)
    rows = [row_of(level) for level in (half, twice)]
    for level in (half, twice):
        opened, closed = level.window
        came = ((level.start > opened) & (level.start <= closed)).sum() / (closed - opened)
        # Four standard deviations of a Poisson count, and due times never later than the sending.
        assert abs(came - level.rate_rps) < 4 * np.sqrt(level.rate_rps / (closed - opened))
        assert (level.sent >= level.start).all()
    assert rows[0].void == ""
    assert "overloaded" in rows[1].void
    assert rows[1].rate_rps == pytest.approx(100, rel=0.15)
    # Latency counts from when a request was due: the wait for a free connection is part of it.
    assert rows[1].p50_ms > 3 * rows[0].p50_ms
    assert rows[1].late_ms > 100 > rows[0].late_ms


def test_every_request_keeps_what_was_sent_and_answered() -> None:
    with stub(service_s=0.01, parallel=2) as (url, *_):
        [level] = load(url, plan(2, min_s=0.6, max_s=0.6, keep_answers=True))
    turn = level.body[np.argsort(level.start)][: len(BODIES)]
    assert sorted(turn) == list(range(len(BODIES)))
    assert list(turn) != sorted(turn)
    assert set(level.answers) == {b'{"label": "cat"}'}
    assert len(level.answers) == len(level.body)


def test_what_does_not_settle_is_measured_until_the_limit() -> None:
    """A server that stops in every other second never has three windows of a second alike."""
    with stub(service_s=0.02, parallel=1) as server:
        stopped_in: set[int] = set()

        def disturb(seconds: float) -> None:
            second = int(seconds)
            if second % 2 and seconds > second + 0.25 and second not in stopped_in:
                stopped_in.add(second)
                os.kill(server.pid, signal.SIGSTOP)
                time.sleep(0.4)
                os.kill(server.pid, signal.SIGCONT)

        [level] = load(server.url, plan(1, min_s=3.0, max_s=3.0, max_windows=5), on_progress=disturb)
    assert len(level.window_edges) == 6
    assert "unstable" in row_of(level, settles=True).void


def test_a_server_too_slow_for_its_users_gets_no_second_request() -> None:
    """Four users, one second each: the third and the fourth would still wait for their first answer."""
    with stub(service_s=1.0, parallel=1) as server:
        [level] = load(server.url, plan(4, give_up_s=2.5))
        log = server.log()
    assert len(level.window_edges) == 2
    assert (level.status == OK).all()
    # The first two users sent again before it was given up; all that was sent has been answered.
    assert len(level.start) == len(log) == 6
    row = row_of(level)
    assert row.rate_rps == pytest.approx(1.0, rel=0.15)
    assert row.void == ""


@pytest.mark.parametrize(("requests", "max_s", "sent"), [(12, 8.0, 12), (100, 1.6, 10)])
def test_of_a_slow_server_the_whole_load_is_measured(requests: int, max_s: float, sent: int) -> None:
    """Four users, a quarter of a second each: until so many requests were sent, or the time is over."""
    with stub(service_s=0.25, parallel=1) as server:
        slow = plan(4, requests=requests, max_s=max_s, give_up_s=0.5)
        [level] = load(server.url, slow)
        log = server.log()
    assert len(level.start) == len(log) == pytest.approx(sent, abs=1)
    opened, closed = level.window
    assert opened <= level.start.min()
    assert closed >= level.end.max()
    assert row_of(level).rate_rps == pytest.approx(4.0, rel=0.15)


def test_users_whose_connections_were_dropped_do_not_make_a_server_slow() -> None:
    """Python's own server keeps six connections until it accepts them; two users try again after a second."""
    turn = plan(8, requests=24, give_up_s=1.0, max_s=8.0)
    words = [sys.executable, str(APIS / "stub_server.py"), str(port := free_port()), "0.05"]
    with process_group(words, stop_s=0.0) as process, load_generator(BODIES, JSON) as generator:
        url = f"http://127.0.0.1:{port}"
        while not healthy(url):
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGSTOP)
        level = generator.run(url, turn, on_progress=lambda _: os.kill(process.pid, signal.SIGCONT))
        whole = generator.run(url, replace(turn, give_up_s=None))
    assert np.diff(np.sort([level.end[level.user == user].min() for user in range(8)])).max() > 0.5
    assert len(level.window_edges) == 4
    assert row_of(level).void == ""
    assert row_of(level).rate_rps == pytest.approx(row_of(whole).rate_rps, rel=0.1)


def test_timeouts_are_counted_apart() -> None:
    with stub(service_s=5.0, parallel=1) as (url, *_):
        [level] = load(url, plan(2, timeout_s=0.5, min_s=1.0, max_s=1.0))
    assert set(level.status) == {TIMED_OUT}
    assert row_of(level).timed_out == len(level.start)


def test_a_refused_connection_is_a_failure_and_no_storm() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    [level] = load(url, plan(2, min_s=1.0, max_s=1.0))
    assert set(level.status) == {FAILED}
    assert set(level.code) == {0}
    assert len(level.start) < 100


@pytest.mark.parametrize("error", [LoadError("enough"), KeyboardInterrupt()])
def test_a_load_that_was_ended_leaves_nothing_to_the_next(error: BaseException) -> None:
    def end(seconds: float) -> None:
        raise error

    short = plan(1, warmup_s=0.2, min_s=0.6, max_s=0.6)
    with (
        stub(service_s=0.05) as slow,
        stub(service_s=0.005) as fast,
        load_generator([b"{}"], JSON) as generator,
    ):
        with pytest.raises(type(error)):
            generator.run(slow.url, short, on_progress=end)
        medians_ms = [
            1000 * np.median(level.end - level.start)
            for level in (generator.run(server.url, short) for server in (fast, slow))
        ]
        process = psutil.Process(generator.pid)
        assert process.is_running()
    assert not process.is_running()
    assert medians_ms[0] < 30 < medians_ms[1]


def test_an_error_in_a_user_ends_the_load() -> None:
    """A name that cannot be encoded is no OSError; a user that failed in silence would be waited for."""
    with pytest.raises(LoadError, match=r"exit status 1.*its log ends[\s\S]*Unicode(Encode)?Error") as caught:
        load("http://a..b:9", plan(2))
    assert "label" in str(caught.value)
