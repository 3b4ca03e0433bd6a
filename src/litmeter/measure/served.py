"""Measurement of a server under load: every level, those near the fastest again, and the best once more."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any

import requests

from litmeter.errors import LoadError, ServerError
from litmeter.load import LoadGenerator, LoadPlan
from litmeter.load.generator import load_bar
from litmeter.measure.levels import did_not_fail, fastest_first, level_row, measured_again, raw_samples
from litmeter.measure.rows import LevelRow
from litmeter.measure.server_metrics import Scrape, ServerTimes, between, read_scrape
from litmeter.measure.telemetry import Telemetry
from litmeter.params import LoadSettings
from litmeter.serve.launcher import RunningServer
from litmeter.stats.records import OK, STATUS_NAMES, WINDOWS, LoadRecord
from litmeter.system.http import direct_session
from litmeter.system.processes import memory_of
from litmeter.system.progress import print_wrapped
from litmeter.system.tables import pluralise

LEAST_S = 3.0
"""For what follows, however little time is left."""
GIVE_UP_S, REPORTED_S = 8.0, 8.0
"""For the first answers to all users of a level, or what is left until ``until``, if that is less; in its
first run without the time of the reported run and the rounds in-process around it."""
TESTED_S, OVERDUE = 10.0, 2.0
"""For those test photos, on which accuracy rests, that no level has answered; or what is left, if less.
Answers that take OVERDUE times as long are not waited for."""
REPORTED_RUNS = 2
"""Of the chosen level, at most: the first of them that is valid is reported, so that a moment's change of the
machine's speed makes no other level the best one."""
REPEATED_FROM = 0.8
"""Of the rate of the level that the first runs alone would choose: a level below that is not the best one,
whether others are valid or not. Those above are run twice before one is chosen, where there is time."""


@dataclass(frozen=True)
class LevelResult:
    """One run of a level: its row, the server's times, the client's record, and the seconds that it took."""

    row: LevelRow
    times: ServerTimes | None
    record: LoadRecord
    seconds: float


@dataclass(frozen=True)
class ServedResult:
    """Results of the load on one server.

    Attributes:
        levels: one per concurrency level, from its last run.
        best: the row of the best level, None where requests failed at every level.
        samples: every request of every run.
        answers: index of the photo and body of the answer, of every good request.
        ready_s: seconds from the server's start to its first 200.
        memory_mib: of all of its processes after the load.
    """

    levels: list[LevelResult]
    best: LevelRow | None
    samples: list[dict[str, Any]]
    answers: list[tuple[int, bytes]]
    ready_s: float
    memory_mib: float
    gpu_memory_mib: float | None

    @property
    def rows(self) -> list[LevelRow]:
        """The rows of all levels."""
        return [level.row for level in self.levels]

    @property
    def failed(self) -> int:
        """Requests of all runs that failed or timed out."""
        return sum(sample["status"] != STATUS_NAMES[OK] for sample in self.samples)


@dataclass
class LoadSession:
    """A running server with the settings of its load; it collects samples and answers.

    Attributes:
        photos: number of the generator's bodies.
        tested: indices of those whose answers are needed; the levels send them first.
        until: when the runs should be over, on the monotonic clock.
    """

    name: str
    server: RunningServer
    generator: LoadGenerator
    telemetry: Telemetry
    load: LoadSettings
    client_limit_rps: float
    photos: int
    tested: Sequence[int]
    until: float = math.inf
    samples: list[dict[str, Any]] = field(default_factory=list)
    answers: list[tuple[int, bytes]] = field(default_factory=list)

    def plan(self, users: int, run: int) -> LoadPlan:
        """The plan of a level for its first run (0), or a later one."""
        plan = LoadPlan(
            users=users,
            requests=self.load.requests,
            warmup_s=self.load.warmup_s,
            min_s=self.load.min_s,
            max_s=self.load.max_s,
            max_windows=WINDOWS,
            timeout_s=self.load.timeout_s,
            seed=self.load.seed,
            repeat=run,
            give_up_s=self.left_s(GIVE_UP_S, 0.0 if run else REPORTED_S),
        )
        missing = self.missing()
        others = [body for body in range(self.photos) if body not in set(missing)]
        rng = random.Random(plan.random_seed)
        rng.shuffle(missing)  # they are in the order of their classes
        rng.shuffle(others)
        return replace(plan, bodies=missing + others)

    def left_s(self, most_s: float, reserved_s: float = 0.0) -> float:
        """Seconds left until ``until``, without those reserved: between LEAST_S and ``most_s``."""
        return min(most_s, max(LEAST_S, self.until - reserved_s - monotonic()))

    def has_time(self, seconds: float) -> bool:
        """Whether runs that take so many seconds would end by ``until``."""
        return monotonic() + seconds <= self.until

    def missing(self) -> list[int]:
        """Those of ``tested`` that have not been answered yet."""
        answered = {body for body, _ in self.answers}
        return [body for body in self.tested if body not in answered]

    def run(self, users: int, run: int) -> LevelResult:
        """Run one level; collect its samples and answers.

        Raises:
            ServerError: the server died; LoadError: the load generator failed.
        """
        began, plan, scrapes = monotonic(), self.plan(users, run), dict[int, Scrape]()
        phase = f"run {run + 1}"
        with load_bar([plan], f"{self.name}: {phase}") as update_bar:

            def on_edge(users: int, index: int) -> None:
                scrapes[index] = scrape(self.server)

            def on_progress(users: int, answers: int, seconds: float) -> None:
                self.server.check()
                update_bar(users, answers, seconds)

            try:
                record = self.generator.run(
                    f"{self.server.url}/predict",
                    plan,
                    on_progress=on_progress,
                    on_edge=on_edge,
                )
            except LoadError:
                self.server.check()  # a server that died is the cause
                raise
        result = self._result(record, scrapes, monotonic() - began)
        self.samples += raw_samples(record, phase)
        self.answers += good_answers(record)
        print_wrapped(f"{self.name}: {phase}: {_line(result.row)}")
        return result

    def _result(self, record: LoadRecord, scrapes: Mapping[int, Scrape], seconds: float) -> LevelResult:
        last = len(record.window_edges) - 1
        before, after = scrapes[max(0, last - WINDOWS)], scrapes[last]
        usage = self.telemetry.usage(*record.window)
        times = between(before, after)
        row = level_row(record, usage, times, after.roles, self.client_limit_rps)
        return LevelResult(row, times, record, seconds)


def measure_served(
    name: str,
    server: RunningServer,
    generator: LoadGenerator,
    load: LoadSettings,
    client_limit_rps: float,
    *,
    photos: int,
    tested: Sequence[int] = (),
    until: float = math.inf,
    while_paused: Callable[[], None] = lambda: None,
) -> ServedResult:
    """Load a server at every level, at those near the fastest again, and at the best one once more.

    Args:
        generator: sends the photos, in the form that ``load.request_body`` names.
        client_limit_rps: the load generator's rate against an echo server.
        photos, tested, until: see ``LoadSession``.
        while_paused: called before the first run, between the levels (see ``run_once``), and after the later
            runs, while the server is stopped: an idle LitServe server polls, which takes CPU time.

    Raises:
        ServerError: the server died; LoadError: the load generator failed.
    """
    with Telemetry(server.pid) as telemetry:
        telemetry.follow_client(generator.pid)
        session = LoadSession(
            name, server, generator, telemetry, load, client_limit_rps, photos, tested, until
        )

        def between() -> None:
            _call_while_paused(server, while_paused)

        between()
        levels = run_once(session, load.users, between)
        again, best = run_again(session, levels, between)
        levels |= again
        if best is not None:
            session.answers += remaining_answers(session, best)
        server.check()
        return ServedResult(
            levels=list(levels.values()),
            best=best,
            samples=session.samples,
            answers=session.answers,
            ready_s=server.ready_s,
            memory_mib=memory_of(server.pid) / 2**20,
            gpu_memory_mib=telemetry.peak_gpu_memory_mib,
        )


def run_once(
    session: LoadSession, users: Sequence[int], between: Callable[[], None]
) -> dict[int, LevelResult]:
    """Run the level of each number of users.

    Args:
        between: called after the first level, and after each other one unless the time is up; ``run_again``
            calls it in any case.
    """
    levels: dict[int, LevelResult] = {}
    for number in users:
        levels[number] = session.run(number, 0)
        if len(levels) == 1 or session.has_time(0.0):
            between()
    return levels


def run_again(
    session: LoadSession, first: Mapping[int, LevelResult], between: Callable[[], None]
) -> tuple[dict[int, LevelResult], LevelRow | None]:
    """Choose the best level, and report it from a run that had no part in the choice.

    Where several levels are near the fastest, and there is time, all of them run a second time, in the
    reverse order, and the mean of both runs chooses: a steady drift cancels.

    Args:
        session: of which ``until`` says how long there is time.
        first: of each level, in the order in which they ran.
        between: called after the second runs and after the last ones.

    Returns:
        The levels that ran again, from their last runs, and the best one, None where requests failed at all.
        Where requests fail only as they are run again, others are run again as well: the next fastest first.
    """
    levels: dict[int, LevelResult] = {}
    rows = fastest_first([level.row for level in first.values()])
    others = [row for row in rows if row.throughput_rps < REPEATED_FROM * rows[0].throughput_rps]
    close = [row for row in rows if row.throughput_rps >= REPEATED_FROM * rows[0].throughput_rps]
    run = 1
    has_time = session.has_time(sum(first[row.users].seconds for row in [*close, *close[:1]]))
    if len(close) > 1 and not has_time:
        print_wrapped(
            f"{session.name}: no time left to run the levels near the fastest again before one is chosen"
        )
    elif len(close) > 1:
        row_of = {row.users: row for row in close}
        for users in reversed([users for users in first if users in row_of]):
            level = session.run(users, run)
            levels[users] = replace(level, row=measured_again(row_of[users], level.row))
        close = fastest_first([mean_of_runs(row, levels[row.users].row) for row in close])
        run += 1
        between()
    again: dict[int, LevelResult] = {}
    best = None
    for choices in [close, *([row] for row in others)]:
        again |= run_best_again(session, choices, run)
        best = best_of([level.row for level in again.values()])
        if best is not None:
            break
    between()
    return levels | again, best


def mean_of_runs(first: LevelRow, second: LevelRow) -> LevelRow:
    """The second run's row with the mean rate of both."""
    return replace(second, throughput_rps=(first.throughput_rps + second.throughput_rps) / 2)


def run_best_again(session: LoadSession, rows: Sequence[LevelRow], run: int) -> dict[int, LevelResult]:
    """Run the first level of ``rows`` until a run is valid, else the next one, as long as there is time.

    Args:
        rows: the fastest first.
        run: number of the first of these runs.
    """
    again: dict[int, LevelResult] = {}
    run_s = 0.0
    for row in rows:
        for number in range(run, run + REPORTED_RUNS):
            if again and not session.has_time(run_s):
                return again
            level = session.run(row.users, number)
            run_s = level.seconds
            again[row.users] = replace(level, row=measured_again(row, level.row))
            if level.row.valid:
                return again
    return again


def best_of(rows: Sequence[LevelRow]) -> LevelRow | None:
    """Of levels that were run again, in the order in which they were: the first valid one, or else the first.

    Other runs chose it: the highest of several noisy rates overestimates its level's (selection bias).
    """
    unfailing = [row for row in rows if did_not_fail(row)]
    return next((row for row in unfailing if row.valid), next(iter(unfailing), None))


def _call_while_paused(server: RunningServer, function: Callable[[], None]) -> None:
    server.pause()
    try:
        function()
    finally:
        server.resume()


def good_answers(record: LoadRecord) -> list[tuple[int, bytes]]:
    """Index of the body, and the answer, of every request that was answered with 200."""
    good = record.status == OK
    pairs = zip(record.body[good], record.answer[good], strict=True)
    return [(int(body), bytes(answer)) for body, answer in pairs]


def remaining_answers(session: LoadSession, best: LevelRow) -> list[tuple[int, bytes]]:
    """The good answers to test photos that no level has answered, sent at the best level."""
    plan = session.plan(best.users, 2 + REPORTED_RUNS)
    missing = set(session.missing())
    left_s = session.left_s(TESTED_S)
    bodies = [body for body in plan.bodies or () if body in missing][: int(best.throughput_rps * left_s)]
    if not bodies:
        return []
    timeout_s = min(plan.timeout_s, OVERDUE * left_s)
    plan = replace(
        plan,
        requests=len(bodies),
        warmup_s=0.0,
        min_s=0.0,
        max_s=left_s,
        timeout_s=timeout_s,
        bodies=bodies,
    )
    record = session.generator.run(
        f"{session.server.url}/predict", plan, on_progress=lambda *_: session.server.check()
    )
    return good_answers(record)


def scrape(server: RunningServer) -> Scrape:
    """Read the server's ``/metrics``.

    Raises:
        ServerError: it does not answer.
    """
    try:
        with direct_session() as session:
            answer = session.get(f"{server.url}/metrics", timeout=10)
        answer.raise_for_status()
    except requests.RequestException as error:
        server.check()
        raise ServerError(f"/metrics does not answer ({type(error).__name__})") from error
    return read_scrape(answer.text)


def _line(row: LevelRow) -> str:
    p50, p95 = ("-" if ms is None else f"{ms:.0f}" for ms in (row.p50_ms, row.p95_ms))
    invalid = "" if row.valid else f"; not valid: {row.invalid_reason}"
    warnings = f"; {row.warnings}" if row.warnings else ""
    return (
        f"{pluralise(row.users, 'user')}: {row.throughput_rps:.1f} req/s "
        f"({row.low_rps:.1f} to {row.high_rps:.1f}), p50 {p50} ms, p95 {p95} ms{invalid}{warnings}"
    )
