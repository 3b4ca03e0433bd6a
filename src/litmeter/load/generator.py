"""The load generator as its callers use it: plans of loads, its process, and records of loads."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from litmeter.errors import LoadError
from litmeter.stats.records import LoadRecord
from litmeter.system.processes import JsonLinesProcess, json_lines_process
from litmeter.system.temporary import scratch


@dataclass(frozen=True)
class LoadPlan:
    """One load.

    Attributes:
        users: number of requests in flight; in an open loop, the most.
        requests: fewest good answers in three windows.
        warmup_s: seconds of load before the first window, after every user has had an answer.
        min_s, max_s: bounds of the length of three windows, seconds.
        max_windows: most windows to measure until the last three agree.
        timeout_s: how long a user waits for an answer.
        seed: of the order of the bodies, and of the arrivals.
        rate_rps: mean rate of an open loop; None: a closed loop, in which each user sends its next request
            after the answer to its last request.
        burstiness: shape of the gamma distribution of the gaps in an open loop: 1 is a Poisson process, less
            is burstier, infinity is equal gaps.
        due_s: due times of an open loop that repeats a trace, seconds from the begin.
        repeat: gives otherwise equal loads different orders and arrivals.
        bodies: indices of the bodies to send, in this order, repeated; None: all, in a random order.
        keep_answers: whether the record holds the answers' bodies, which may take much memory.
        give_up_s: how long the users of a closed loop wait for their first answers; None: ``timeout_s``. If a
            user waits longer, and there are fewer good answers than users, the load has a single window, from
            its first request to its last answer, and ends after ``requests`` requests or ``max_s``. With more
            answers the server is not slow: a user may wait for ``max_s``.
        begin_at: when the users start, on their machine's monotonic clock; ``warmup_s`` later, three windows
            open, ``min_s`` long together. None: at once, and windows by the rules above.
        sender, senders: number of this sender, and of all senders. Each sender sends every ``senders``-th of
            all arrivals and bodies.
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
    burstiness: float = 1.0
    due_s: Sequence[float] | None = None
    repeat: int = 0
    give_up_s: float | None = None
    bodies: Sequence[int] | None = None
    keep_answers: bool = False
    begin_at: float | None = None
    sender: int = 0
    senders: int = 1

    @property
    def random_seed(self) -> str:
        """Seed of the order of bodies and of the arrivals, equal in each run and for all senders."""
        size = self.users if self.senders == 1 else self.senders
        return f"{self.seed}/{size}/{self.rate_rps}/{self.repeat}"


RECORD = "record.pickle"
"""The file with a ``LoadRecord``, in the folder of the bodies."""
OnProgress = Callable[[float], None]
"""Called during a load with the seconds measured so far."""


class LoadGenerator:
    """The load generator's process, which runs one load after another.

    An exception during a load ends the process, so that nothing of the load is sent or read afterwards;
    another process runs the next load.

    Args:
        folder: holds the request bodies, and the record of the last load.

    Attributes:
        sent: the bodies, their content type, and the other headers.
    """

    sent: tuple[Sequence[bytes], str, Mapping[str, str]]

    def __init__(self, folder: Path, headers: Mapping[str, str]) -> None:
        self._folder = folder
        self._settings = {"headers": dict(headers), "folder": str(folder)}
        self._stack = ExitStack()
        self._process: JsonLinesProcess | None = None
        self._ready = False
        self._running()

    @property
    def pid(self) -> int:
        """Process id; changes after a load that ended with an exception."""
        return self._running().pid

    def wait_until_ready(self) -> None:
        """Wait until the process has started; raise LoadError if it failed."""
        if not self._ready:
            with self._ending_on_error():
                assert self._running().answer() == ["ready"]
            self._ready = True

    def run(self, url: str, plan: LoadPlan, *, on_progress: OnProgress = lambda seconds: None) -> LoadRecord:
        """Run one load of POST requests to ``url``; no request is in flight when this returns or raises.

        Args:
            on_progress: called a few times a second; an exception from it ends the load.

        Raises:
            LoadError: the process failed, or started too late for ``plan.begin_at``.
        """
        self.wait_until_ready()
        with self._ending_on_error():
            self._running().send({"url": url, "plan": vars(plan)})
            for event, *values in self._running().answers():
                if event in ("done", "late"):
                    break
                on_progress(*values)
        if event == "late":
            raise LoadError(f"it began to send {values[0]:g} s too late")
        record: LoadRecord = pickle.loads((self._folder / RECORD).read_bytes())  # noqa: S301 -- our own
        return record

    def close(self) -> None:
        """End the process."""
        self._process, self._ready = None, False
        self._stack.close()

    def _running(self) -> JsonLinesProcess:
        if self._process is None:
            module, name = "litmeter.load.process", "the load generator"
            self._process = self._stack.enter_context(
                json_lines_process(module, self._settings, os.environ, name, error=LoadError, stop_s=0.0)
            )
        return self._process

    @contextmanager
    def _ending_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise


@contextmanager
def load_generator(
    bodies: Sequence[bytes], content_type: str, headers: Mapping[str, str] | None = None
) -> Iterator[LoadGenerator]:
    """Start a load generator that sends ``bodies``; end its process with the block.

    Args:
        headers: sent with every request, besides the content type.

    Raises:
        LoadError: there are no bodies.
    """
    if not bodies:
        raise LoadError("there is nothing to send: no request body")
    with scratch() as folder:
        for number, body in enumerate(bodies):
            (folder / f"{number:06}.body").write_bytes(body)
        with closing(LoadGenerator(folder, {"Content-Type": content_type, **(headers or {})})) as generator:
            generator.sent = bodies, content_type, headers or {}
            yield generator
