"""Start the load generator's process, report its events, and read its records."""

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
        warmup_s: seconds of load before the first window, once every user has had an answer.
        min_s, max_s: bounds of three windows' length, seconds.
        max_windows: windows to measure at most, until the last three agree.
        timeout_s: how long a user waits for an answer.
        seed: of the order in which the bodies are sent, and of the arrivals.
        rate_rps: mean rate of an open loop with Poisson arrivals; None is a closed loop, in which each
            user sends its next request when the last one has been answered.
        repeat: distinguishes loads that are otherwise equal, so that each has its own order and arrivals.
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
        """Seed of this load's order of bodies and arrivals, the same from run to run."""
        return f"{self.seed}/{self.users}/{self.rate_rps}/{self.repeat}"


OnProgress = Callable[[int, int, float], None]
"""Called while a level runs: users, good answers measured so far, seconds measured so far."""
OnEdge = Callable[[int, int], None]
"""Called at each edge of a window: users, index of the edge within the level."""


def generate(
    url: str,
    bodies: Sequence[bytes],
    content_type: str,
    plans: Sequence[LoadPlan],
    *,
    headers: Mapping[str, str] | None = None,
    on_start: Callable[[int], None] = lambda pid: None,
    on_progress: OnProgress = lambda users, answers, seconds: None,
    on_edge: OnEdge = lambda users, index: None,
) -> list[LoadRecord]:
    """Run the loads of ``plans`` one after another: send ``bodies`` to ``url`` by POST.

    Args:
        headers: sent with every request, besides the content type.
        on_start: called with the process id of the load generator.
        on_progress: called a few times a second; an exception that it raises stops the load.
        on_edge: called at every edge of a window.

    Raises:
        LoadError: there are no bodies, or the generator's process failed.
    """
    if not bodies:
        raise LoadError("there is nothing to send: no request body")
    with scratch() as folder:
        for number, body in enumerate(bodies):
            (folder / f"{number:06}.body").write_bytes(body)
        job = {
            "url": url,
            "headers": {"Content-Type": content_type, **(headers or {})},
            "folder": str(folder),
            "plans": [asdict(plan) for plan in plans],
        }
        job_file, log = folder / "job.json", folder / "client.log"
        job_file.write_text(json.dumps(job), encoding="utf-8")
        command = [sys.executable, "-m", "servebench.loadgen", str(job_file)]
        with (
            log.open("wb") as stderr,
            process_group(
                command, stdout=subprocess.PIPE, stderr=stderr, env=os.environ | {"TMPDIR": str(folder)}
            ) as process,
        ):
            on_start(process.pid)
            assert process.stdout is not None
            for line in process.stdout:
                event, *values = json.loads(line)
                (on_edge if event == "edge" else on_progress)(*values)
            status = process.wait()
        if status != 0:
            raise LoadError(f"the load generator failed (exit status {status}){log_tail(log)}")
        return [_read_record(folder / f"level-{number}.npz", plan) for number, plan in enumerate(plans)]


def _read_record(path: Path, plan: LoadPlan) -> LoadRecord:
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in REQUEST_FIELDS}
        return LoadRecord(
            users=plan.users, rate_rps=plan.rate_rps, window_edges=stored["window_edges"], **arrays
        )
