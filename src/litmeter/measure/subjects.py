"""The subjects of turns: a served configuration, its pipeline in-process, any URL.

A subject costs nothing until it is started; then its processes sleep between turns.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import takewhile

import numpy as np
import requests

from litmeter.errors import LitmeterError, LoadError, ServerError
from litmeter.kinds.configuration import Configuration
from litmeter.kinds.server import DYING_S, Server, Start
from litmeter.load import LoadGenerator, LoadPlan
from litmeter.load.bodies import Bodies
from litmeter.load.first_request import LOADING, BadAnswerError, check_first_request
from litmeter.load.senders import Sender
from litmeter.measure.figures import Scrape, read_scrape
from litmeter.measure.turn import Turn, Work, WorkKind, in_process
from litmeter.stats.records import FAILED, OK, Floats, LoadRecord
from litmeter.system.cores import available_cores
from litmeter.system.http import direct_session
from litmeter.system.processes import JsonLinesProcess, json_lines_process


@dataclass(frozen=True)
class Done:
    """Result of work in-process: images per second in equal parts of the turn, CPU ms per image, and ms until
    the first piece of an answer that streams."""

    blocks: Floats
    cpu_ms: float
    first_ms: float | None = None


class NoRoomError(LitmeterError):
    """Memory does not hold the further workers that a turn takes."""


class Subject(ABC):
    """What can be started, woken, loaded and put to sleep. A subject may have several names.

    Attributes:
        room: whether memory holds so many further workers.
        workers, gpu_workers: number of processes that hold a model, and that hold a model on a GPU.
        essential: whether the measurement must fail without the subject.
        pid: root of the subject's processes, once it is ready; None if they run elsewhere.
        client_pid: the process that sends the requests; None if there is none, or several.
        ready_s: seconds from start to ready; None if the subject ran already.
    """

    room: Callable[[int], bool] = staticmethod(lambda further: True)
    workers: int = 0
    gpu_workers: int = 0
    essential: bool = True
    pid: int | None = None
    client_pid: int | None = None
    ready_s: float | None = None

    @abstractmethod
    def start(self) -> AbstractContextManager[Callable[[], None]]:
        """Run the subject within the block; the yielded function waits until it is ready."""

    def awake(self) -> AbstractContextManager[None]:
        """Let the subject take CPU time within the block; no request is in flight at its end."""
        return nullcontext()

    def scrape(self) -> Scrape | None:
        """The server's counters; None without any."""
        return None

    @abstractmethod
    def load(self, turn: Turn, tick: Callable[[], None]) -> LoadRecord | Done:
        """Load the subject as ``turn`` says, and call ``tick`` a few times a second.

        Raise LitmeterError if the subject or the load generator failed.
        """


MOST_TRIED = 3
"""Bodies that are sent alone after a turn, at most."""


@dataclass(eq=False)
class Served(Subject):
    """A configuration behind HTTP.

    Its processes are stopped (SIGSTOP) between turns, as LitServe polls while it is idle. A null model, which
    does nothing, is served on the CPU. If it ``tries_bodies``, one that a turn had only refusals of is sent
    alone.
    """

    name: str
    configuration: Configuration
    sender: LoadGenerator
    device: str
    timeout_s: float
    null: bool = False
    tries_bodies: bool = True
    server: Server = field(init=False)
    _good: set[int] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self.workers, self.client_pid = self.configuration.workers, self.sender.pid
        self.gpu_workers = self.workers if self.device == "cuda" and not self.null else 0

    @contextmanager
    def start(self) -> Iterator[Callable[[], None]]:
        """Start the server; once ready, it is paused."""
        device = "cpu" if self.null else self.device
        with (
            named(self.name),
            self.configuration.starting(Start(device, self.timeout_s, null=self.null)) as starting,
        ):

            def ready() -> None:
                with named(self.name):
                    self.server = starting
                    starting.ready(self.configuration.ready_s, partial(self._ask, LOADING))
                    if not self.configuration.brings_bodies:
                        self._ask()
                self.server.pause()
                self.pid, self.ready_s = self.server.pid, self.server.ready_s

            yield ready

    def _ask(self, others: Collection[int] = (), body: int = 0) -> int:
        """Send one request, with the ``body`` of this index.

        Return its status, or raise ServerError if it is not 200 or one of ``others``.
        """
        try:
            bodies, content_type, headers = self.sender.sent
            sent_with = (bodies[body:], content_type, headers)
            return check_first_request(self.server.target, *sent_with, self.timeout_s, others)
        except ServerError as error:
            self.server.check(DYING_S)  # raises if the server's death is the cause
            if isinstance(error, BadAnswerError) and error.status >= 500:
                raise ServerError(f"{error}{self.server.log_end}") from error
            raise

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Resume the server's processes within the block; raise ServerError if one has died."""
        with named(self.name):
            self.server.check()
        self.server.resume()
        try:
            yield
        finally:
            self.server.pause()

    def scrape(self) -> Scrape | None:
        """Read the server's metrics; raise ServerError without an answer."""
        if self.server.metrics is None:
            counted = self.server.counted()
            return counted and Scrape(batched=[0.0, counted[0]], roles=counted[1])
        with named(self.name):
            try:
                with direct_session() as session:
                    answer = session.get(self.server.metrics, timeout=10)
                answer.raise_for_status()
            except requests.RequestException as error:
                self.server.check()
                raise ServerError(f"/metrics does not answer ({type(error).__name__})") from error
        return read_scrape(answer.text)

    def load(self, turn: Turn, tick: Callable[[], None]) -> LoadRecord:
        """Send requests."""
        assert isinstance(turn.load, LoadPlan)

        def on_progress(seconds: float) -> None:
            self.server.check()
            tick()

        with named(self.name):
            try:
                record = self.sender.run(self.server.target, turn.load, on_progress=on_progress)
            except LoadError:
                self.server.check()  # raises if the server's death is the cause
                raise
            if self.tries_bodies:
                self._try_refused(record)
            return record

    def _try_refused(self, record: LoadRecord) -> None:
        """Raise ServerError for a body of several that is not answered with 200, not even alone."""
        refused = Counter(record.body[(record.status == FAILED) & (record.code >= 400)].tolist())
        self._good.update(record.body[record.status == OK].tolist())
        doubtful = [body for body, times in refused.most_common() if times > 1 and body not in self._good]
        for body in doubtful[:MOST_TRIED]:
            try:
                self._ask(body=body)
            except ServerError as error:
                number = f"body {body + 1} of {len(self.sender.sent[0])}"
                raise ServerError(f"{number} is never answered with 200: {error}") from error
            self._good.add(body)


@contextmanager
def named(configuration: str) -> Iterator[None]:
    """Add the configuration's name to a ServerError of the block."""
    try:
        yield
    except ServerError as error:
        raise ServerError(f"{configuration}: {error}") from error


class Target(Subject):
    """A server that somebody else has started, here or elsewhere."""

    def __init__(self, url: str, sender: Sender) -> None:
        self.url, self.sender = url, sender
        self.client_pid = getattr(sender, "pid", None)

    def start(self) -> AbstractContextManager[Callable[[], None]]:
        """Find it ready."""
        return nullcontext(lambda: None)

    def load(self, turn: Turn, tick: Callable[[], None]) -> LoadRecord:
        """Send requests."""
        assert isinstance(turn.load, LoadPlan)
        return self.sender.run(self.url, turn.load, on_progress=lambda seconds: tick())


PROBE_S, SLOW_PROBE = 0.3, 1 / 3
"""Seconds of a probe in the search for the fastest number of busy workers. A number has two probes, of which
the slower counts (threads that outnumber the cores spin in most probes), or one if that is below SLOW_PROBE
of the fastest rate so far. The search ends when even the faster probe of more workers is not faster."""
WAITING = 1 / 2
"""Share of a worker's time on a core below which it mostly waits, as for a GPU or a service."""


@dataclass(eq=False)
class InProcess(Subject):
    """A configuration's workers without a server: processes that hold the model and wait for work.

    On a CPU at most as many workers run as there are cores, unless they mostly wait; and as many as ``users``
    can fill with batches, or it would be no bound of what these are served. Their inputs are what the kind
    makes of ``bodies``. ``threads`` are the threads of the model's libraries in each worker.
    """

    name: str
    configuration: Configuration
    device: str
    bodies: Bodies
    users: int = sys.maxsize
    talk: JsonLinesProcess = field(init=False)
    threads: int = field(init=False)
    _busy: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.essential = False
        self.cores = available_cores() if self.device == "cpu" else 0.0
        self.workers = min(self.configuration.workers, math.ceil(self.cores) or sys.maxsize)
        self.gpu_workers = self.workers if self.device == "cuda" else 0

    @contextmanager
    def start(self) -> Iterator[Callable[[], None]]:
        """Start the processes."""
        module, own = "litmeter.measure.inprocess_workers", self.configuration
        setup = {
            "module": type(own).__module__,
            "class": type(own).__qualname__,
            "settings": own.model_dump(),
            "inputs": own.pipeline_inputs(self.bodies),
            "device": self.device,
        }
        name, place = in_process(self.name), None if own.place is None else str(own.place)
        with json_lines_process(module, setup, own.environment(), name, cwd=place) as self.talk:

            def ready() -> None:
                self.threads = int(self.talk.answer())
                self.pid, self._busy = self.talk.pid, None

            yield ready

    def load(self, turn: Turn, tick: Callable[[], None]) -> Done:
        """Run batches."""
        assert isinstance(turn.load, Work)
        tick()  # a short turn has no other
        kind: WorkKind = turn.load.kind if turn.load.kind in ("model", "preprocess") else "pipeline"
        if turn.load.busy is None:
            can_fill = sys.maxsize if turn.load.kind == "filled" else self.users // turn.load.batch_size
            busy = min(self.busiest(), max(1, can_fill))
            return self._run(replace(turn.load, kind=kind, busy=busy), tick)
        further = turn.load.busy - self.workers
        if further > 0 and not self.room(further):
            raise NoRoomError(f"there is no memory for {turn.load.busy} workers")
        return self._run(replace(turn.load, kind=kind), tick, stay=False)

    def _run(self, work: Work, tick: Callable[[], None] = lambda: None, *, stay: bool = True) -> Done:
        """Run batches; workers that start for them ``stay``, or end afterwards."""
        self.talk.send({**asdict(work), "stay": stay})
        blocks, cpu_ms, first_ms = self.talk.answer(tick)
        self.workers = max(self.workers, work.busy or 0) if stay else self.workers
        return Done(np.array(blocks), cpu_ms, first_ms)

    def busiest(self) -> int:
        """The number of workers that runs the pipeline fastest, one image at a time.

        Candidates: as many workers as have a core for each thread, twice as many, and so on up to one for
        each core, or up to all if they mostly wait. Fewer are slower; more can be slower if their threads
        outnumber the cores.
        """
        if self._busy is None:
            fewest, most = max(1, int(self.cores / self.threads)), self.configuration.workers
            doubled = takewhile(lambda busy: busy < most, (fewest << k for k in range(16)))
            choices, rates = sorted({*doubled, self.workers, most}), dict[int, float]()
            used = 0.0  # cores, by the last number of workers
            for busy in choices if len(choices) > 1 else []:
                further = busy - self.workers
                if further > 0 and (used > WAITING * max(rates) or not self.room(further)):
                    break
                fastest_rps = max(rates.values(), default=0.0)
                probes: list[float] = []
                while not probes or (len(probes) < 2 and probes[0] > SLOW_PROBE * fastest_rps):
                    done = self._run(Work("pipeline", 1, PROBE_S, busy))
                    probes.append(float(done.blocks.mean()))
                    used = probes[-1] * done.cpu_ms / 1000
                if max(probes) <= fastest_rps:
                    break
                rates[busy] = min(probes)
            self._busy = max(rates, key=rates.__getitem__, default=self.workers)
        return self._busy


def pipelines_of(
    configurations: Mapping[str, Configuration], device: str, bodies: Bodies, users: int
) -> dict[str, InProcess]:
    """In-process subjects for so many users, by name; configurations with the same pipeline share one."""
    shared: dict[tuple[str, str], InProcess] = {}
    return {
        in_process(name): shared.setdefault(
            (one.kind, one.model_dump_json(include=set(one.pipeline_keys))),
            InProcess(name, one, device, bodies, users),
        )
        for name, one in configurations.items()
    }
