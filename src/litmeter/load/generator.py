"""The load generator as others use it: what it is to send, its process, its events and its records."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from litmeter.errors import LoadError
from litmeter.stats.records import REQUEST_FIELDS, LoadRecord
from litmeter.system.processes import JsonLinesProcess, process_group
from litmeter.system.temporary import scratch


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
        rate_rps: mean rate of an open loop; None is a closed loop, in which each user sends its next request
            when the last one has been answered.
        burstiness: of an open loop, shape of the gamma distribution of the gaps between requests: 1 is a
            Poisson process, less is burstier, and infinity are equal gaps.
        due_s: of an open loop that repeats a trace: when requests are due, seconds from its begin.
        repeat: distinguishes loads that are otherwise equal, so that each has its own order and arrivals.
        bodies: indices of the bodies to send, in this order and again; None for all, in a random order.
        keep_answers: whether the record has the answers' bodies; they may take much memory.
        give_up_s: how long the users of a closed loop wait for their first answers. If one waits longer, the
            load has a single window, from its first request to its last answer, and no more is sent once
            ``requests`` have been, or ``max_s`` are over; None: as long as ``timeout_s``.
        begin_at: when the users start, on the monotonic clock of their machine; three windows of ``min_s``
            together then open ``warmup_s`` later. None: at once, and windows by the rules above.
        sender, senders: number of the one that runs this plan, and how many there are. Of the arrivals of
            all, and of the bodies in their order, each sends every ``senders``-th.
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
        """Seed of this load's order of bodies and arrivals, the same from run to run."""
        size = self.users if self.senders == 1 else self.senders  # all senders have the same
        return f"{self.seed}/{size}/{self.rate_rps}/{self.repeat}"


OnProgress = Callable[[float], None]
"""Called while a load runs, with the seconds measured so far."""


class LoadGenerator:
    """The load generator's process, which runs one load after another.

    A load that ends with an exception ends the process, so that nothing of it is sent or read any more; the
    next one is run by another process.

    Args:
        folder: with the request bodies, and for what the process writes.

    Attributes:
        first: the first body, in a list, its content type, and the other headers.
        record_path: the record of the last load, as the process has written it.
    """

    first: tuple[Sequence[bytes], str, Mapping[str, str]]

    def __init__(self, folder: Path, headers: Mapping[str, str]) -> None:
        self._folder = folder
        self.record_path = folder / "record.npz"
        self._settings = json.dumps({"headers": dict(headers), "folder": str(folder)})
        self._stack = ExitStack()
        self._process: JsonLinesProcess | None = None
        self._ready = False
        self._running()

    @property
    def pid(self) -> int:
        """Process id; it is another one after a load that ended with an exception."""
        return self._running().pid

    def wait_until_ready(self) -> None:
        """Wait until the process has started; raise LoadError if it has failed."""
        if not self._ready:
            with self._ending_on_error():
                assert self._running().answer() == ["ready"]
            self._ready = True

    def run(self, url: str, plan: LoadPlan, *, on_progress: OnProgress = lambda seconds: None) -> LoadRecord:
        """Run one load against ``url`` by POST; when this returns or raises, no request is in flight.

        Args:
            on_progress: called a few times a second from the first to the last; an exception that it raises
                ends the load.

        Raises:
            LoadError: the process failed, or could not begin at the time of ``plan``.
        """
        self.wait_until_ready()
        with self._ending_on_error():
            self._running().send({"url": url, "plan": vars(plan), "path": str(self.record_path)})
            for event, *values in self._running().answers():
                if event in ("done", "late"):
                    break
                on_progress(*values)
        if event == "late":
            raise LoadError(f"it began to send {values[0]:g} s too late")
        return read_record(self.record_path, plan)

    def close(self) -> None:
        """End the process."""
        self._process, self._ready = None, False
        self._stack.close()

    def _running(self) -> JsonLinesProcess:
        if self._process is None:
            log = self._folder / "client.log"
            process = self._stack.enter_context(
                process_group(
                    [sys.executable, "-m", "litmeter.load.process", self._settings],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._stack.enter_context(log.open("wb")),
                    env=os.environ | {"TMPDIR": str(self._folder)},
                    stop_s=0.0,
                )
            )
            self._process = JsonLinesProcess(process, log, "the load generator", LoadError)
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
    """Start the load generator's process, which sends ``bodies``; end it when the block is left.

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
            generator.first = bodies[:1], content_type, headers or {}
            yield generator


def read_record(source: Path | BinaryIO, plan: LoadPlan) -> LoadRecord:
    """The record that a load generator's process has written of ``plan``."""
    with np.load(source, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in REQUEST_FIELDS}
        edges, cores = stored["window_edges"], float(stored["cores"])
        joined = memoryview(stored["answers"])
    answers: Sequence[bytes] = ()
    if plan.keep_answers:
        ends = arrays["size"].cumsum().tolist()
        answers = [bytes(joined[begin:end]) for begin, end in itertools.pairwise([0, *ends])]
    return LoadRecord(
        users=plan.users,
        rate_rps=plan.rate_rps,
        window_edges=edges,
        cores=cores,
        answers=answers,
        **arrays,
    )
