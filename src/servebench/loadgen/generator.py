"""Start the load generator's process, follow it, and read what it recorded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from servebench.errors import LoadError
from servebench.stats.records import REQUEST_FIELDS, LoadRecord
from servebench.system.processes import log_tail, process_group
from servebench.system.temporary import scratch


@dataclass(frozen=True)
class LoadPlan:
    """How one concurrency level is run.

    Attributes:
        users: requests in flight at once; with a rate, at most.
        requests: good answers to measure in three windows, at least.
        warmup_s: seconds thrown away once every user has had an answer.
        min_s, max_s: bounds of three windows' length, seconds.
        max_windows: measured at most, until the last three agree.
        timeout_s: how long a user waits for an answer.
        seed: of the order in which the bodies are sent, and of the arrivals.
        rate_rps: mean rate of an open loop's arrivals, which are Poisson's; None is a closed loop, in
            which each user sends its next request when the last one has been answered.
        repeat: tells loads apart that are otherwise the same: each has arrivals and an order of its own.
    """

    users: int
    requests: int
    warmup_s: float
    min_s: float
    max_s: float
    max_windows: int
    timeout_s: float
    seed: int
    rate_rps: float | None = None
    repeat: int = 0

    @property
    def random_seed(self) -> str:
        """Of the order of the bodies and of the arrivals: each load has its own, the same from run to run."""
        return f"{self.seed}/{self.users}/{self.rate_rps}/{self.repeat}"


Progress = Callable[[int, int, float], None]
"""Called while a level runs: users, good answers measured so far, seconds measured so far."""
Edge = Callable[[int, int], None]
"""Called as a window begins or ends: users, place among the level's edges."""


def generate(
    url: str,
    bodies: Sequence[bytes],
    content_type: str,
    plan: Sequence[LoadPlan],
    *,
    headers: Mapping[str, str] | None = None,
    on_start: Callable[[int], None] = lambda pid: None,
    on_progress: Progress = lambda users, answers, seconds: None,
    on_edge: Edge = lambda users, place: None,
) -> list[LoadRecord]:
    """Run the loads of ``plan`` one after another against ``url`` by POST.

    Args:
        headers: sent with every request, besides the content type.
        on_start: called with the process id of the load generator.
        on_progress: called a few times a second; what it raises stops the load.
        on_edge: called at every edge of a window.

    Raises:
        LoadError: there are no bodies, or the generator's process ended before its work was done.
    """
    if not bodies:
        raise LoadError("there is nothing to send: no request body")
    with scratch() as folder:
        for number, body in enumerate(bodies):
            (folder / f"{number:06}.body").write_bytes(body)
        order = {
            "url": url,
            "headers": {"Content-Type": content_type, **(headers or {})},
            "folder": str(folder),
            "plan": [asdict(level) for level in plan],
        }
        (folder / "order.json").write_text(json.dumps(order), encoding="utf-8")
        log = folder / "client.log"
        command = [sys.executable, "-m", "servebench.loadgen", str(folder / "order.json")]
        with (
            log.open("wb") as stderr,
            process_group(
                command, stdout=subprocess.PIPE, stderr=stderr, env=os.environ | {"TMPDIR": str(folder)}
            ) as process,
        ):
            on_start(process.pid)
            assert process.stdout is not None
            for line in process.stdout:
                kind, *values = json.loads(line)
                (on_edge if kind == "edge" else on_progress)(*values)
            status = process.wait()
        if status != 0:
            raise LoadError(f"the load generator failed (exit status {status}){log_tail(log)}")
        return [_read(folder / f"level-{number}.npz", level) for number, level in enumerate(plan)]


def _read(path: Path, plan: LoadPlan) -> LoadRecord:
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in REQUEST_FIELDS}
        return LoadRecord(
            users=plan.users, rate_rps=plan.rate_rps, window_edges=stored["window_edges"], **arrays
        )
