"""What studies share: what they serve and load, and results that are kept."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import psutil
from scipy.special import stdtrit

from litmeter.classifier.data.index import read_index
from litmeter.classifier.server.client import CONTENT_TYPES, request_bodies
from litmeter.errors import LoadError
from litmeter.kinds.configuration import Configuration
from litmeter.kinds.server import Start, StartedServer
from litmeter.load import LoadGenerator, LoadPlan, load_generator
from litmeter.measure.log import Log
from litmeter.measure.rounds import head_to_head
from litmeter.measure.rows import TurnRow
from litmeter.measure.run import run
from litmeter.measure.subjects import Served, Subject, Target
from litmeter.measure.turn import Schedule
from litmeter.params import params_on
from litmeter.paths import MACHINE
from litmeter.stats.records import WINDOWS
from litmeter.system.files import read_json, write_json
from litmeter.system.machine import exclusive_machine

DEVICE = "cpu"
TIMEOUT_S = 30
"""How long a request may take, for a server and for whoever sends it."""
WARMUP_S = 0.5
SERVER = "server"
"""The subject of ``watched_server``."""
RESULTS = Path("studies/results")
NUMBER = "number"
"""The form of a small JSON body, which the LitAPIs of ``studies.apis`` take."""


@dataclass(frozen=True)
class Case:
    """A server, and the form of the bodies that it is sent: ``image`` or ``json`` of photos, or NUMBER."""

    settings: Configuration
    form: str = "image"
    null: bool = False


def start(doc: str | None, *studies: Callable[..., None]) -> None:
    """Run the study that the command line names, with the arguments behind its name; else print ``doc``."""
    name, *arguments = sys.argv[1:] or [""]
    by_name = {study.__name__: study for study in studies}
    if name not in by_name:
        sys.exit(doc)
    by_name[name](*arguments)


def compare_cases(
    cases: Mapping[str, Case], users: Sequence[int], seconds: float
) -> dict[int, dict[str, list[TurnRow]]]:
    """Load all cases in turn, for ``seconds`` at each number of users; raise LoadError if a request failed.

    Return their turns by number of users and name, in the order of the rounds.
    """

    def rounds_at_each() -> Schedule[None]:
        for number, at_once in enumerate(users, 1):
            yield from head_to_head(list(cases), at_once, seconds * number, seed=number, timeout_s=TIMEOUT_S)

    log = Log()
    with exclusive_machine(), ExitStack() as stack:
        senders = {form: stack.enter_context(sender(form)) for form in {case.form for case in cases.values()}}
        subjects = {
            name: Served(name, one.settings, senders[one.form], DEVICE, TIMEOUT_S, one.null)
            for name, one in cases.items()
        }
        run(rounds_at_each(), subjects, log, seconds * len(users))
    check_answered(log.rows)
    found: dict[int, dict[str, list[TurnRow]]] = {at_once: {name: [] for name in cases} for at_once in users}
    for row in log.rows:
        found[row.users or 0][row.subject].append(row)
    return found


def configuration(name: str) -> Configuration:
    """A configuration of params.yaml, as it runs on this machine."""
    return params_on(read_json(MACHINE))[0].configuration(name)


def check_answered(rows: Sequence[TurnRow]) -> None:
    """Raise LoadError where a request failed or timed out."""
    for row in rows:
        if lost := row.failed + row.timed_out:
            raise LoadError(f"{row.subject}: {lost} of {row.sent} requests failed with {row.users} users")


@contextmanager
def watched_server(
    settings: Configuration, form: str = "image"
) -> Iterator[tuple[StartedServer, dict[str, Subject]]]:
    """A server whose processes a study watches, and the subject SERVER, which sends bodies of that form."""
    with settings.starting(Start(DEVICE, TIMEOUT_S)) as server, sender(form) as generator:
        assert isinstance(server, StartedServer)
        server.ready()
        yield server, {SERVER: Target(server.target, generator)}


def sender(form: str) -> AbstractContextManager[LoadGenerator]:
    """A load generator that sends all photos, or a number, in the form ``form``."""
    if form == NUMBER:
        return load_generator([b'{"input": 1.5}'], "application/json")
    return load_generator(request_bodies(photo_paths(), form), CONTENT_TYPES[form])


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
    """Three windows, none of which is repeated; ``longest_s`` is for them to collect ``requests`` answers."""
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


def rates(rows: Sequence[TurnRow]) -> list[float]:
    """Good answers per second of each turn; raise LoadError where there was none."""
    return [known(row.rate_rps) for row in rows]


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """One over the other within each round."""
    return [own / other for own, other in zip(ours, theirs, strict=True)]


def known(figure: float | None) -> float:
    """A figure that enough requests support; raise LoadError where too few do."""
    if figure is None:
        raise LoadError("too few requests for this figure: the machine is too slow, or busy")
    return figure


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Geometric mean over rounds, its 95% interval (Student's t of the logarithms), and all values."""
    logs = [math.log(value) for value in values]
    spread = float(stdtrit(len(logs) - 1, 0.975)) * stdev(logs) / math.sqrt(len(logs))
    ends = {"mean": mean(logs), "low": mean(logs) - spread, "high": mean(logs) + spread}
    found: dict[str, Any] = {key: round(math.exp(log), 4) for key, log in ends.items()}
    return {**found, "rounds": [round(value, 4) for value in values]}


def photo_paths() -> list[Path]:
    """All photos."""
    return [Path(photo.path) for photo in read_index().photos]


def process_tree(root_pid: int) -> list[psutil.Process]:
    """A process and all below it."""
    root = psutil.Process(root_pid)
    return [root, *root.children(recursive=True)]


def memory_mib(root_pid: int) -> float:
    """Resident memory of a server's whole process tree."""
    return sum(float(own.memory_info().rss) for own in process_tree(root_pid)) / 2**20


def keep_runs(
    study: str, runs: int, run: Callable[[int], dict[str, Any]], **details: Any
) -> list[dict[str, Any]]:
    """Call ``run`` with each number below ``runs``, and keep what it returned at once, with ``details``.

    A study that was stopped goes on with the next run.
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


def write_result(study: str, content: Mapping[str, Any]) -> None:
    """Keep what a study found, with the machine and the day."""
    machine = read_json(MACHINE)
    own = {"machine": machine["id"], "cpu": machine["cpu"], "cpu_flags": machine["cpu_flags"]}
    write_json(RESULTS / f"{study}.json", {**content, **own, "measured_on": date.today().isoformat()})


def read_result(study: str) -> dict[str, Any]:
    """What ``write_result`` has kept; raise FileNotFoundError where that is nothing."""
    return read_json(RESULTS / f"{study}.json")
