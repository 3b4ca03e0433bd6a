"""Measurement of a server under load: every level, then the best one again and longer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import requests

from servebench.benchmark.levels import (
    best_level,
    fastest_level,
    level_row,
    measured_again,
    raw_samples,
)
from servebench.benchmark.rows import LevelRow
from servebench.benchmark.server_metrics import Scrape, ServerTimes, between, read_scrape
from servebench.benchmark.telemetry import Telemetry
from servebench.errors import LoadError, ServerError
from servebench.loadgen import LoadPlan, generate
from servebench.loadgen.progress import load_bar
from servebench.params import LoadSettings, ServeSettings
from servebench.paths import MODEL
from servebench.serving.client import CONTENT_TYPES
from servebench.serving.launcher import RunningServer, running_server
from servebench.stats.records import OK, LoadRecord
from servebench.stats.stability import WINDOWS
from servebench.system.progress import print_wrapped


@dataclass(frozen=True)
class LevelResult:
    """One level: its row, the server's times, and the client's record."""

    row: LevelRow
    times: ServerTimes | None
    record: LoadRecord


@dataclass(frozen=True)
class ServedResult:
    """Results of the load on one server.

    Attributes:
        levels: one per concurrency level; the best one from its second, longer run.
        best: the row of the best level, None where requests failed at every level.
        samples: every request of every run.
        answers: index of the photo and body of the answer, of every good request.
    """

    levels: list[LevelResult]
    best: LevelRow | None
    samples: list[dict[str, Any]]
    answers: list[tuple[int, bytes]]
    ready_s: float
    server_memory_mib: float
    gpu_memory_mib: float | None

    @property
    def rows(self) -> list[LevelRow]:
        """The rows of all levels."""
        return [level.row for level in self.levels]


@dataclass
class LoadSession:
    """A running server with the settings of its load; it collects samples and answers."""

    name: str
    server: RunningServer
    telemetry: Telemetry
    bodies: Sequence[bytes]
    load: LoadSettings
    client_limit_rps: float
    samples: list[dict[str, Any]] = field(default_factory=list)
    answers: list[tuple[int, bytes]] = field(default_factory=list)

    def plan(self, users: int, requests: int, max_s: float, repeat: int = 0) -> LoadPlan:
        """The plan of a level, for its first run (0) or a repeat."""
        return LoadPlan(
            users=users,
            requests=requests,
            warmup_s=self.load.warmup_s,
            min_s=self.load.min_s,
            max_s=max_s,
            max_windows=self.load.max_windows,
            timeout_s=self.load.timeout_s,
            seed=self.load.seed,
            repeat=repeat,
        )

    def run(self, phase: str, plans: Sequence[LoadPlan]) -> list[LevelResult]:
        """Run levels one after another; collect their samples and answers.

        Raises:
            ServerError: the server died; LoadError: the load generator failed.
        """
        scrapes: dict[int, list[Scrape]] = {plan.users: [] for plan in plans}
        with load_bar(plans, f"{self.name}: {phase}") as update_bar:

            def on_progress(users: int, answers: int, seconds: float) -> None:
                self.server.check()
                update_bar(users, answers, seconds)

            try:
                records = generate(
                    f"{self.server.url}/predict",
                    self.bodies,
                    CONTENT_TYPES[self.load.request_body],
                    plans,
                    on_start=self.telemetry.follow_client,
                    on_progress=on_progress,
                    on_edge=lambda users, _: scrapes[users].append(scrape(self.server)),
                )
            except LoadError:
                self.server.check()  # a server that died is the cause
                raise
        results = [self._result(record, scrapes[record.users]) for record in records]
        for result in results:
            self.samples += raw_samples(result.record, phase)
            self.answers += good_answers(result.record)
            print_wrapped(f"{self.name}: {phase}: {_line(result.row)}")
        return results

    def _result(self, record: LoadRecord, scrapes: Sequence[Scrape]) -> LevelResult:
        last = len(record.window_edges) - 1
        before, after = scrapes[max(0, last - WINDOWS)], scrapes[last]
        usage = self.telemetry.usage(*record.window)
        times = between(before, after)
        row = level_row(record, usage, times, after.roles, self.client_limit_rps)
        return LevelResult(row, times, record)


def measure_served(
    name: str,
    serve: ServeSettings,
    load: LoadSettings,
    device: str,
    bodies: Sequence[bytes],
    client_limit_rps: float,
) -> ServedResult:
    """Start a server of the exported model, load it at every level, then again at the best one.

    The fastest level is measured again and reported from its second run: the highest of several noisy
    rates overestimates that level's rate (selection bias), and a level that had not settled gets more time.

    Args:
        bodies: in the form that ``load.request_body`` names.
        client_limit_rps: the load generator's rate against an echo server.

    Raises:
        ServerError: the server died; LoadError: the load generator failed.
    """
    with (
        running_server(MODEL, serve, device, load.timeout_s) as server,
        Telemetry(server.pid) as telemetry,
    ):
        print_wrapped(f"{name}: server ready after {server.ready_s:.1f} s")
        session = LoadSession(name, server, telemetry, bodies, load, client_limit_rps)
        plans = [session.plan(users, load.requests, load.max_s) for users in load.users]
        levels = session.run("every level", plans)
        best = fastest_level([level.row for level in levels])
        if best is not None:
            users = best.users
            plan = session.plan(users, load.best_requests, load.best_max_s, repeat=1)
            [again] = session.run("best level", [plan])
            again = replace(again, row=measured_again(best, again.row))
            levels = [again if level.row.users == users else level for level in levels]
            best = again.row if again.row.valid else best_level([level.row for level in levels])
            _send_remaining_photos(session, users)
        server.check()
        return ServedResult(
            levels=levels,
            best=best,
            samples=session.samples,
            answers=session.answers,
            ready_s=server.ready_s,
            server_memory_mib=telemetry.peak_server_rss_mib,
            gpu_memory_mib=telemetry.peak_gpu_memory_mib,
        )


def good_answers(record: LoadRecord) -> list[tuple[int, bytes]]:
    """Index of the body, and the answer, of every request that was answered with 200."""
    good = record.status == OK
    pairs = zip(record.body[good], record.answer[good], strict=True)
    return [(int(body), bytes(answer)) for body, answer in pairs]


def _send_remaining_photos(session: LoadSession, users: int) -> None:
    """Send the photos that no level has sent, as accuracy is measured on all of them."""
    sent = {photo for photo, _ in session.answers}
    remaining = [photo for photo in range(len(session.bodies)) if photo not in sent]
    if not remaining:
        return
    [record] = generate(
        f"{session.server.url}/predict",
        [session.bodies[photo] for photo in remaining],
        CONTENT_TYPES[session.load.request_body],
        [session.plan(users, len(remaining), session.load.best_max_s)],
        on_progress=lambda *_: session.server.check(),
    )
    session.answers += [(remaining[body], answer) for body, answer in good_answers(record)]


def scrape(server: RunningServer) -> Scrape:
    """Read the server's ``/metrics``.

    Raises:
        ServerError: it does not answer.
    """
    try:
        answer = requests.get(f"{server.url}/metrics", timeout=10)
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
        f"{row.users:>3} users: {row.throughput_rps:.1f} req/s "
        f"({row.low_rps:.1f} to {row.high_rps:.1f}), p50 {p50} ms, p95 {p95} ms{invalid}{warnings}"
    )
