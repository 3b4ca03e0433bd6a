"""Cases measured in rounds: a round measures every case once, the next round in the opposite order.

Rates drift from minute to minute, so cases are compared within a round.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from litmeter.benchmark.levels import level_row
from litmeter.benchmark.rows import LevelRow
from litmeter.benchmark.telemetry import Telemetry
from litmeter.data.index import read_index
from litmeter.errors import LoadError
from litmeter.loadgen import LoadPlan, generate
from litmeter.params import ServeSettings
from litmeter.paths import MACHINE, MODEL, ModelFolders
from litmeter.serving.client import CONTENT_TYPES, request_bodies
from litmeter.serving.launcher import RunningServer, running_server
from litmeter.stats.records import WINDOWS, LoadRecord
from litmeter.system.files import read_json, write_json
from litmeter.system.machine import exclusive_machine
from litmeter.system.progress import bar
from studies import DEVICE, TIMEOUT_S
from studies.peers.running import running_peer

WARMUP_S = 0.5
SAMPLE_S = 0.1
"""Interval of the telemetry."""
LONGEST = 10
"""Times its seconds that a level may take to collect its number of answers."""
RESULTS = Path("studies/results")

Name = TypeVar("Name", bound=Hashable)
Found = TypeVar("Found")
Levels = dict[int, LevelRow]
"""By number of users."""


@dataclass(frozen=True)
class Case:
    """A server, and how it is loaded.

    Attributes:
        users: of each level; the levels run one after another.
        seconds: a level's length; it goes on, up to LONGEST times as long, for ``requests`` answers.
        form: what users send, ``image`` or ``json``.
        peer: the framework that serves instead of litmeter. Of its answers the good ones count, where
            litmeter has to answer every request.
        null_model: serve a model that does nothing.
        environment: variables for the server's processes.
    """

    settings: ServeSettings
    users: tuple[int, ...]
    seconds: float
    requests: int = 1
    form: str = "image"
    folders: ModelFolders = MODEL
    peer: str | None = None
    null_model: bool = False
    metrics: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, number: int) -> Levels:
        """Start the server, load it and stop it."""
        with self.running() as server:
            return self.load(server, number)

    @contextmanager
    def running(self) -> Iterator[RunningServer]:
        """The server, until the block is left."""
        with ExitStack() as stack:
            with environment(self.environment):
                server = stack.enter_context(self._started())
            yield server

    def load(self, server: RunningServer, seed: int) -> Levels:
        """Run all levels.

        Raises:
            LoadError: a request failed.
        """
        plans = [
            load_plan(
                users=users,
                seconds=self.seconds,
                longest_s=self.seconds * (1 if self.requests == 1 else LONGEST),
                requests=self.requests,
                seed=seed,
            )
            for users in self.users
        ]
        with Telemetry(server.pid, interval_s=SAMPLE_S) as telemetry:
            records = run_load(server, self.form, plans, on_start=telemetry.follow_client)
            rows = [level_row(record, telemetry.usage(*record.window)) for record in records]
        for row in rows:
            lost = row.failed + row.timed_out
            if lost and self.peer is None:
                raise LoadError(f"{lost} of {row.sent} requests failed with {row.users} users")
        return {row.users: row for row in rows}

    def _started(self) -> AbstractContextManager[RunningServer]:
        if self.peer is not None:
            return running_peer(self.peer, self.folders, self.settings)
        return running_server(
            self.folders,
            self.settings,
            DEVICE,
            TIMEOUT_S,
            null_model=self.null_model,
            metrics=self.metrics,
        )


def measure_rounds(
    what: str, cases: Mapping[Name, Callable[[int], Found]], rounds: int
) -> dict[Name, list[Found]]:
    """What each case returned, round by round; it is called with the number of the round, from 0 on."""
    with exclusive_machine():
        return _measure(what, cases, rounds)


def measure_side_by_side(what: str, cases: Mapping[Name, Case], rounds: int) -> dict[Name, list[Levels]]:
    """The same, with all servers up from the first round on: SIGSTOP holds those whose turn it is not."""
    with exclusive_machine(), ExitStack() as stack:
        servers = {name: stack.enter_context(case.running()) for name, case in cases.items()}
        for server in servers.values():
            server.pause()
        loads = {name: partial(_load_awake, case, servers[name]) for name, case in cases.items()}
        return _measure(what, loads, rounds)


def _measure(what: str, cases: Mapping[Name, Callable[[int], Found]], rounds: int) -> dict[Name, list[Found]]:
    found: dict[Name, list[Found]] = {name: [] for name in cases}
    with bar(rounds * len(cases), what, "case") as progress:
        for number in range(rounds):
            for name in list(cases)[:: -1 if number % 2 else 1]:
                progress.set_postfix_str(str(name))
                found[name].append(cases[name](number))
                progress.update()
    return found


def _load_awake(case: Case, server: RunningServer, number: int) -> Levels:
    server.resume()
    try:
        return case.load(server, number)
    finally:
        server.pause()


def rates(rounds: Sequence[Levels], users: int) -> list[float]:
    """Requests per second of one level, by round."""
    return [levels[users].throughput_rps for levels in rounds]


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """One over the other within each round."""
    return [own / other for own, other in zip(ours, theirs, strict=True)]


def load_plan(
    *,
    users: int,
    seconds: float,
    seed: int,
    longest_s: float | None = None,
    requests: int = 1,
    warmup_s: float = WARMUP_S,
    rate_rps: float | None = None,
) -> LoadPlan:
    """A level of three windows, none of which is repeated."""
    return LoadPlan(
        users=users,
        requests=requests,
        warmup_s=warmup_s,
        min_s=seconds,
        max_s=seconds if longest_s is None else longest_s,
        max_windows=WINDOWS,
        timeout_s=TIMEOUT_S,
        seed=seed,
        rate_rps=rate_rps,
    )


def run_load(server: RunningServer, form: str, plans: Sequence[LoadPlan], **hooks: Any) -> list[LoadRecord]:
    """Send all photos in the form ``form``, as ``plans`` say; ``hooks`` are those of ``generate``."""
    return generate(f"{server.url}/predict", all_bodies(form), CONTENT_TYPES[form], plans, **hooks)


def photo_paths() -> list[Path]:
    """All photos."""
    return [Path(photo.path) for photo in read_index().photos]


@cache
def all_bodies(form: str) -> list[bytes]:
    """The request bodies of all photos."""
    return request_bodies(photo_paths(), form)


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Have processes that are started in the block see ``variables``."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def write_result(name: str, content: Mapping[str, Any]) -> None:
    """Keep what a study found, with the machine that it was found on."""
    machine = read_json(MACHINE)
    own = {"machine": machine["id"], "cpu": machine["cpu"], "cpu_flags": machine["cpu_flags"]}
    write_json(RESULTS / f"{name}.json", {**content, **own})


def read_runs(name: str) -> list[dict[str, Any]]:
    """The runs that a study has kept so far: one that takes hours goes on where it was stopped."""
    try:
        runs: list[dict[str, Any]] = read_result(name)["runs"]
    except FileNotFoundError:
        return []
    return runs


def read_result(name: str) -> dict[str, Any]:
    """What ``write_result`` has kept."""
    return read_json(RESULTS / f"{name}.json")
