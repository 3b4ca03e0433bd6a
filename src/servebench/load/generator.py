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
import numpy.typing as npt

from servebench.errors import LoadError
from servebench.leftovers import scratch
from servebench.measure.steady import WINDOWS
from servebench.processes import log_tail, process_group

OK, FAILED, TIMED_OUT = 0, 1, 2
"""What became of a request: answered with 200, answered otherwise or cut off, not answered in time."""
RECORD = ("user", "start", "sent", "end", "status", "code", "size", "body", "answer")
"""What is kept of each request."""


@dataclass(frozen=True)
class LevelPlan:
    """How one concurrency level is run.

    Attributes:
        users: requests under way at once; with a rate, at most.
        requests: good answers to measure in three windows, at least.
        warmup_s: seconds thrown away once every user has had an answer.
        min_s, max_s: bounds of three windows' length, seconds.
        max_windows: measured at most, until the last three agree.
        timeout_s: how long a user waits for an answer.
        seed: of the order in which the bodies are sent, and of the arrivals.
        rate_rps: mean rate of an open loop's arrivals, which are Poisson's; None is a closed loop, in
            which each user sends its next request when the last one has been answered.
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


@dataclass(frozen=True)
class Level:
    """What was recorded at one level: every request, and the windows in which all users were busy.

    Times are seconds of the machine's monotonic clock. The arrays have one element per request, in
    the order in which they ended; ``start`` is when a request was due, ``sent`` when it was sent (the same in
    a closed loop, but for microseconds); ``status`` holds OK, FAILED or TIMED_OUT, ``code`` the HTTP status
    (0 without an answer), ``size`` the bytes of the answer, ``body`` the place of what was sent among
    the bodies, ``answer`` what came back (empty above 64 KiB).

    Attributes:
        edges: where the windows begin and end; the last three windows are what is reported.
    """

    users: int
    rate_rps: float | None
    edges: npt.NDArray[np.float64]
    user: npt.NDArray[np.int64]
    start: npt.NDArray[np.float64]
    sent: npt.NDArray[np.float64]
    end: npt.NDArray[np.float64]
    status: npt.NDArray[np.int64]
    code: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    body: npt.NDArray[np.int64]
    answer: npt.NDArray[np.bytes_]

    @property
    def window(self) -> tuple[float, float]:
        """The last three windows together, or as many as there are."""
        reported = self.edges[-WINDOWS - 1 :]
        return float(reported[0]), float(reported[-1])


Progress = Callable[[int, int, float], None]
"""Called while a level runs: users, good answers measured so far, seconds measured so far."""
Edge = Callable[[int, int], None]
"""Called as a window begins or ends: users, place among the level's edges."""


def generate(
    url: str,
    bodies: Sequence[bytes],
    content_type: str,
    plan: Sequence[LevelPlan],
    *,
    headers: Mapping[str, str] | None = None,
    on_start: Callable[[int], None] = lambda pid: None,
    on_progress: Progress = lambda users, answers, seconds: None,
    on_edge: Edge = lambda users, place: None,
) -> list[Level]:
    """Run the levels of ``plan`` one after another against ``url`` by POST.

    Args:
        headers: sent with every request, besides the content type.
        on_start: called with the process id of the load generator.
        on_progress: called a few times a second; what it raises stops the load.
        on_edge: called at every edge of a window.

    Raises:
        LoadError: there are no bodies, or the generator's process ended before its work was done.
    """
    if not bodies:
        raise LoadError("there is nothing to send: no photo, no request body")
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
        command = [sys.executable, "-m", "servebench.load", str(folder / "order.json")]
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


def _read(path: Path, plan: LevelPlan) -> Level:
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in RECORD}
        return Level(users=plan.users, rate_rps=plan.rate_rps, edges=stored["edges"], **arrays)
