"""What studies share: servers under load, cases measured in rounds, and results that are kept.

Rates drift from minute to minute, so cases are compared within a round: a round measures every case once, the
next one in the opposite order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any, TypeVar

import psutil
from scipy.special import stdtrit

from litmeter.data.index import read_index
from litmeter.errors import LoadError
from litmeter.load import LoadPlan, generate
from litmeter.measure.levels import level_row
from litmeter.measure.rows import LevelRow
from litmeter.measure.telemetry import Telemetry
from litmeter.params import ServeSettings
from litmeter.paths import MACHINE, MODEL
from litmeter.serve.client import CONTENT_TYPES, request_bodies
from litmeter.serve.launcher import RunningServer, running_server
from litmeter.stats.records import WINDOWS, LoadRecord
from litmeter.system.files import read_json, write_json
from litmeter.system.machine import exclusive_machine
from litmeter.system.progress import bar

DEVICE = "cpu"
TIMEOUT_S = 30
"""How long a request may take, for a server and for whoever sends it."""
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
    """A server of the pipeline's model, and how it is loaded.

    Attributes:
        users: of each level; the levels run one after another.
        seconds: a level's length; it goes on, up to LONGEST times as long, for ``requests`` answers.
        form: what users send, ``image`` or ``json``.
        null_model: serve a model that does nothing.
    """

    settings: ServeSettings
    users: tuple[int, ...] = ()
    seconds: float = 0.0
    requests: int = 1
    form: str = "image"
    null_model: bool = False

    def __call__(self, number: int) -> Levels:
        """Start the server, load it and stop it."""
        with self.running() as server:
            return self.load(server, number)

    @contextmanager
    def running(self) -> Iterator[RunningServer]:
        """The server, until the block is left."""
        with running_server(MODEL, self.settings, DEVICE, TIMEOUT_S, null_model=self.null_model) as server:
            yield server

    def load(self, server: RunningServer, seed: int) -> Levels:
        """Run all levels.

        Raises:
            LoadError: a request failed.
        """
        longest_s = self.seconds * (1 if self.requests == 1 else LONGEST)
        plans = [
            load_plan(users, self.seconds, seed=seed, longest_s=longest_s, requests=self.requests)
            for users in self.users
        ]
        with Telemetry(server.pid, interval_s=SAMPLE_S) as telemetry:
            records = run_load(server, self.form, plans, on_start=telemetry.follow_client)
            rows = [level_row(record, telemetry.usage(*record.window)) for record in records]
        for row in rows:
            if lost := row.failed + row.timed_out:
                raise LoadError(f"{lost} of {row.sent} requests failed with {row.users} users")
        return {row.users: row for row in rows}


def measure_rounds(
    what: str, cases: Mapping[Name, Callable[[int], Found]], rounds: int
) -> dict[Name, list[Found]]:
    """What each case returned, round by round; it is called with the number of the round, from 0 on."""
    found: dict[Name, list[Found]] = {name: [] for name in cases}
    with exclusive_machine(), bar(rounds * len(cases), what, "case") as progress:
        for number in range(rounds):
            for name in list(cases)[:: -1 if number % 2 else 1]:
                progress.set_postfix_str(str(name))
                found[name].append(cases[name](number))
                progress.update()
    return found


def keep_runs(
    study: str, runs: int, run: Callable[[int], dict[str, Any]], **details: Any
) -> list[dict[str, Any]]:
    """Call ``run`` with each number below ``runs``, and keep what it returned at once, with ``details``.

    A study that was stopped goes on with the next run; delete its result to begin anew.
    """
    try:
        found: list[dict[str, Any]] = read_result(study)["runs"]
    except FileNotFoundError:
        found = []
    for number in range(len(found), runs):
        found.append(run(number))
        print(f"run {number + 1}: {found[-1]}", flush=True)
        write_result(study, {**details, "runs": found})
    return found


def rates(rounds: Sequence[Levels], users: int) -> list[float]:
    """Requests per second of one level, by round."""
    return [levels[users].throughput_rps for levels in rounds]


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """One over the other within each round."""
    return [own / other for own, other in zip(ours, theirs, strict=True)]


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Geometric mean over rounds, its 95% interval (Student's t of the logarithms), and all values."""
    logs = [math.log(value) for value in values]
    spread = float(stdtrit(len(logs) - 1, 0.975)) * stdev(logs) / math.sqrt(len(logs))
    found = {"mean": mean(logs), "low": mean(logs) - spread, "high": mean(logs) + spread}
    return {key: round(math.exp(log), 4) for key, log in found.items()} | {
        "rounds": [round(value, 4) for value in values]
    }


def load_plan(
    users: int,
    seconds: float,
    *,
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


def process_tree(root_pid: int) -> list[psutil.Process]:
    """A process and all below it."""
    root = psutil.Process(root_pid)
    return [root, *root.children(recursive=True)]


def memory_mib(root_pid: int) -> float:
    """Resident memory of a server's whole process tree."""
    return sum(float(own.memory_info().rss) for own in process_tree(root_pid)) / 2**20


def write_result(study: str, content: Mapping[str, Any]) -> None:
    """Keep what a study found, with the machine that it was found on."""
    machine = read_json(MACHINE)
    own = {"machine": machine["id"], "cpu": machine["cpu"], "cpu_flags": machine["cpu_flags"]}
    write_json(RESULTS / f"{study}.json", {**content, **own})


def read_result(study: str) -> dict[str, Any]:
    """What ``write_result`` has kept.

    Raises:
        FileNotFoundError: nothing.
    """
    return read_json(RESULTS / f"{study}.json")
