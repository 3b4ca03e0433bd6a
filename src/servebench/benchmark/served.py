"""A server under load: every level, then the best one again and longer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import requests

from servebench.errors import LoadError, ServerError
from servebench.load import CONTENT_TYPES, Level, LevelPlan, generate
from servebench.load.generator import OK
from servebench.measure.level import (
    LevelRow,
    best_level,
    fastest_level,
    level_row,
    measured_again,
    raw_samples,
)
from servebench.measure.server import Scrape, ServerTimes, between, read_scrape
from servebench.measure.steady import WINDOWS
from servebench.measure.telemetry import Telemetry
from servebench.params import LoadSettings, ServeSettings
from servebench.paths import EXPORT_FOLDER
from servebench.progress import bar
from servebench.serving.running import RunningServer, running_server


@dataclass(frozen=True)
class Measured:
    """One level, as the client and as the server saw it."""

    row: LevelRow
    times: ServerTimes | None
    level: Level


@dataclass(frozen=True)
class Served:
    """What the load on a server brought.

    Attributes:
        levels: one per concurrency level; the best one from its second, longer run.
        best: the row of the best level, None where requests failed at every level.
        samples: every request of every run.
        answers: place of the photo and body of the answer, of every good request.
    """

    levels: list[Measured]
    best: LevelRow | None
    samples: list[dict[str, Any]]
    answers: list[tuple[int, bytes]]
    ready_s: float
    server_memory_mib: float
    gpu_memory_mib: float | None

    @property
    def rows(self) -> list[LevelRow]:
        """The rows of all levels."""
        return [measured.row for measured in self.levels]


@dataclass
class Bench:
    """A running server and all that is needed to load it."""

    name: str
    server: RunningServer
    telemetry: Telemetry
    bodies: Sequence[bytes]
    content_type: str
    load: LoadSettings
    ceiling_rps: float
    samples: list[dict[str, Any]] = field(default_factory=list)
    answers: list[tuple[int, bytes]] = field(default_factory=list)

    def plan(self, users: int, requests: int, max_s: float) -> LevelPlan:
        """How a level is run."""
        return LevelPlan(
            users=users,
            requests=requests,
            warmup_s=self.load.warmup_s,
            min_s=self.load.min_s,
            max_s=max_s,
            max_windows=self.load.max_windows,
            timeout_s=self.load.timeout_s,
            seed=self.load.seed,
        )

    def run(self, phase: str, plan: Sequence[LevelPlan]) -> list[Measured]:
        """Run levels one after another; what was sent and answered is kept.

        Raises:
            ServerError: the server died; LoadError: the load generator did.
        """
        scrapes: dict[int, list[Scrape]] = {level.users: [] for level in plan}
        with bar(sum(level.requests for level in plan), f"{self.name}: {phase}", "answer") as progress:
            try:
                levels = generate(
                    f"{self.server.url}/predict",
                    self.bodies,
                    self.content_type,
                    plan,
                    on_start=self.telemetry.follow_client,
                    on_progress=_follow(self.server, progress, plan),
                    on_edge=lambda users, _: scrapes[users].append(scrape(self.server)),
                )
            except LoadError:
                self.server.check()  # a dead server is the better explanation
                raise
        measured = [self._measured(level, scrapes[level.users]) for level in levels]
        for one in measured:
            self.samples += raw_samples(one.level, phase)
            good = one.level.status == OK
            pairs = zip(one.level.body[good], one.level.answer[good], strict=True)
            self.answers += [(int(body), bytes(answer)) for body, answer in pairs]
            print(f"{self.name}: {phase}: {_line(one.row)}", flush=True)
        return measured

    def _measured(self, level: Level, scrapes: Sequence[Scrape]) -> Measured:
        last = len(level.edges) - 1
        before, after = scrapes[max(0, last - WINDOWS)], scrapes[last]
        usage = self.telemetry.usage(*level.window)
        times = between(before, after)
        return Measured(level_row(level, usage, times, after.roles, self.ceiling_rps), times, level)


def measure_served(
    name: str,
    serve: ServeSettings,
    load: LoadSettings,
    device: str,
    bodies: Sequence[bytes],
    ceiling_rps: float,
) -> Served:
    """Start a server of the exported model, load it at every level, then again at the best one.

    The fastest level of the first round is measured again and reported from the second: the highest
    of several noisy rates is more likely a lucky one than the level's own, and one that had not yet
    settled gets the time to.

    Args:
        bodies: in the form that ``serve.request_body`` names.
        ceiling_rps: what the load generator reaches against a server that answers at once.

    Raises:
        ServerError: the server died; LoadError: the load generator did.
    """
    with (
        running_server(EXPORT_FOLDER, serve, device, load.timeout_s) as server,
        Telemetry(server.pid) as telemetry,
    ):
        print(f"{name}: server ready after {server.ready_s:.1f} s", flush=True)
        bench = Bench(name, server, telemetry, bodies, CONTENT_TYPES[serve.request_body], load, ceiling_rps)
        every = [bench.plan(users, load.requests, load.max_s) for users in load.users]
        levels = bench.run("every level", every)
        best = fastest_level([measured.row for measured in levels])
        if best is not None:
            users = best["users"]
            plan = bench.plan(users, load.best_requests, load.best_max_s)
            [again] = bench.run("best level", [plan])
            again = replace(again, row=measured_again(best, again.row))
            levels = [again if one.row["users"] == users else one for one in levels]
            best = again.row if again.row["valid"] else best_level([one.row for one in levels])
            _send_the_rest(bench, users)
        server.check()
        return Served(
            levels=levels,
            best=best,
            samples=bench.samples,
            answers=bench.answers,
            ready_s=server.ready_s,
            server_memory_mib=telemetry.peak_server_rss_mib,
            gpu_memory_mib=telemetry.peak_gpu_memory_mib,
        )


def _send_the_rest(bench: Bench, users: int) -> None:
    """Send the photos that no level has come to: all of them are compared."""
    sent = {place for place, _ in bench.answers}
    rest = [place for place in range(len(bench.bodies)) if place not in sent]
    if not rest:
        return
    [level] = generate(
        f"{bench.server.url}/predict",
        [bench.bodies[place] for place in rest],
        bench.content_type,
        [bench.plan(users, len(rest), bench.load.best_max_s)],
        on_progress=lambda *_: bench.server.check(),
    )
    good = level.status == OK
    pairs = zip(level.body[good], level.answer[good], strict=True)
    bench.answers += [(rest[body], bytes(answer)) for body, answer in pairs]


def scrape(server: RunningServer) -> Scrape:
    """What the server says of itself now.

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


def _follow(
    server: RunningServer, progress: Any, plan: Sequence[LevelPlan]
) -> Callable[[int, int, float], None]:
    """Move the bar as the load generator reports, and notice a server that has died."""
    before = {level.users: sum(p.requests for p in plan[:place]) for place, level in enumerate(plan)}
    wanted = {level.users: level.requests for level in plan}

    def follow(users: int, answers: int, seconds: float) -> None:
        server.check()
        progress.set_postfix_str(f"{users} users")
        progress.update(before[users] + min(answers, wanted[users]) - progress.n)

    return follow


def _line(row: LevelRow) -> str:
    p50, p95 = ("-" if row[key] is None else f"{row[key]:.0f}" for key in ("p50_ms", "p95_ms"))
    verdict = "" if row["valid"] else f"; not valid: {row['why']}"
    notes = f"; {row['notes']}" if row["notes"] else ""
    return (
        f"{row['users']:>3} users: {row['throughput_rps']:.1f} req/s "
        f"({row['low_rps']:.1f} to {row['high_rps']:.1f}), p50 {p50} ms, p95 {p95} ms{verdict}{notes}"
    )
