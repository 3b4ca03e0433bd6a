"""The one loop that measures: it starts subjects, gives them their turns, and keeps the log.

Only here are there servers, a clock, progress, limits of memory, and telemetry. An exception, Ctrl-C among
them, ends all that was started; what was measured is in the log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import TypeVar

from litmeter.errors import LitmeterError, ServerError
from litmeter.measure.figures import inprocess_row, served_row
from litmeter.measure.log import Log
from litmeter.measure.subjects import Done, Live, Subject
from litmeter.measure.telemetry import Telemetry
from litmeter.measure.turn import Sample, Schedule, Serve, Serving, Turn
from litmeter.system.machine import cuda_gpu
from litmeter.system.processes import available_memory, memory_alone
from litmeter.system.progress import bar, print_wrapped

Result = TypeVar("Result")
Show = Callable[[str, float], None]
"""Called with what is being done, and the seconds so far."""


def run(
    schedule: Schedule[Result],
    subjects: Mapping[str, Subject],
    log: Log,
    budget_s: float,
    show: Show | None = None,
) -> Result:
    """Measure what ``schedule`` asks for until it returns.

    What ``log`` has of a run that was stopped is not measured again.

    Args:
        subjects: by the names that the schedule's turns have.
        budget_s: how long it should take, for the progress.
        show: None for a progress bar.

    Raises:
        ServerError: a server did not start, or died; LoadError: the load generator failed; StorageError: the
            log cannot be written.
    """
    with ExitStack() as stack:
        loop = Loop(subjects, log, show or stack.enter_context(progress(budget_s)))
        stack.callback(loop.end_all)
        stack.callback(schedule.close)
        try:
            asked = next(schedule)
            while True:
                asked = schedule.send(loop.answer(asked))
        except StopIteration as end:
            result: Result = end.value
            return result


@contextmanager
def progress(budget_s: float, title: str = "measuring") -> Iterator[Show]:
    """Show how far a run is."""
    with bar(round(budget_s), title, "s") as shown:

        def show(text: str, seconds: float) -> None:
            shown.set_postfix_str(text)
            shown.update(max(0, min(round(seconds), round(budget_s)) - round(shown.n)))

        yield show


MEMORY_RESERVE = 1.2
"""Workers grow under load. So the next subject starts if this times the largest worker's memory is free for
each worker of it and of those that still start, and a fifth of it for each that is ready."""
STARTED_AT_ONCE = 5
"""Subjects, once the first one is ready: each starts its processes one after another, with a core idle. On a
GPU one, as what is free there says nothing of a single subject while others load."""


@dataclass
class Memory:
    """Whether a kind of memory has room for another subject.

    Attributes:
        free_bytes: what is free now.
        worker_bytes: of the largest worker so far; on a GPU, of all so far in the mean.
    """

    free_bytes: Callable[[], int]
    worker_bytes: float = field(default=0.0, init=False)

    def fits(self, new: int, ready: int) -> bool:
        """Whether ``new`` workers, of which some may load already, have room beside ``ready`` ones."""
        needed = self.worker_bytes * (MEMORY_RESERVE * new + (MEMORY_RESERVE - 1) * ready)
        return self.free_bytes() >= needed


def free_gpu_bytes() -> int:
    """Memory that is free on the first CUDA device; 0 where that is not known."""
    gpu = cuda_gpu()
    return 0 if gpu is None else int(gpu.memory_available) * 2**20


class Loop:
    """What runs, and since when."""

    def __init__(self, subjects: Mapping[str, Subject], log: Log, show: Show) -> None:
        self.subjects, self.log, self.show = subjects, log, show
        self.live: dict[str, Live] = {}
        self.memory = Memory(available_memory)
        self.gpu = Memory(free_gpu_bytes) if cuda_gpu() is not None else None
        self._gpu_before = free_gpu_bytes() if self.gpu else 0
        self._began: float | None = None
        self._stacks: dict[str, ExitStack] = {}
        self._wanted: tuple[str, ...] = ()
        self._telemetry = Telemetry()

    @property
    def seconds(self) -> float:
        """Seconds since the log's begin; the time between a stopped run and this one does not count."""
        if self._began is None:  # all that was measured before has been repeated
            self._began = monotonic() - self.log.reached_s
        return monotonic() - self._began

    def answer(self, asked: Turn | Serve) -> Sample | Serving:
        """What was measured before, or is measured now."""
        answer = self.log.repeated(asked)
        if answer is None:
            answer = self.ready(asked) if isinstance(asked, Serve) else self.measure(asked)
            self.log.add(asked, answer)
        if isinstance(answer, Serving):
            self._wanted = answer.names
        return answer

    def ready(self, asked: Serve) -> Serving:
        """Have subjects ready; raise ServerError if a server did not start."""
        names = self.serve(asked.names)
        ready_s = {name: self.live[name].ready_s for name in names}
        return Serving(names, round(self.seconds, 3), ready_s)

    def measure(self, turn: Turn) -> Sample:
        """Wake a subject, load it, put it to sleep.

        Raises:
            LitmeterError: it is not ready; ServerError: it died; LoadError: the load generator failed.
        """
        at_s = self.seconds
        if turn.subject not in self.live:
            self.serve(self._wanted if turn.subject in self._wanted else (*self._wanted, turn.subject))
            self._began = monotonic() - at_s  # what a stopped run had ready is none of the schedule's time
        if (live := self.live.get(turn.subject)) is None:
            raise LitmeterError(f"{turn.subject} cannot be measured: there is no memory for it")
        text = f"{turn.note}, now {turn.subject}" if turn.note else turn.subject

        def tick() -> None:
            self._telemetry.tick()
            self.show(text, self.seconds)

        self.show(text, at_s)
        live.wake()
        try:
            before = live.scrape()
            self._telemetry.begin(live.pid, live.client_pid)
            found = live.load(turn, tick)
            usage = self._telemetry.end()
            after = live.scrape()
            own_bytes = None if live.pid is None else memory_alone(live.pid)
        finally:
            live.sleep()
        number, seconds = len(self.log.samples), self.seconds - at_s
        if isinstance(found, Done):
            row = inprocess_row(turn, number, at_s, seconds, found.blocks, found.cpu_ms, usage)
            return Sample(turn, row, blocks=found.blocks)
        scrapes = None if before is None or after is None else (before, after)
        return Sample(turn, served_row(turn, number, at_s, seconds, found, usage, scrapes, own_bytes), found)

    def serve(self, names: Sequence[str]) -> tuple[str, ...]:
        """Have subjects ready, as many as memory holds, and no others; return the names of those.

        Raises:
            ServerError: a server did not start.
        """
        for name in set(self.live) - set(names):
            self._end(name)
        waiting = deque(name for name in names if name not in self.live)
        starting: deque[tuple[str, Callable[[], Live]]] = deque()
        fits = True
        while starting or (waiting and fits):
            most = (1 if self.gpu else STARTED_AT_ONCE) if self.live else 1
            while waiting and fits and len(starting) < most:
                fits = self._fits([*(name for name, _ in starting), waiting[0]])
                if fits:
                    name = waiting.popleft()
                    if (ready := self._start(name)) is not None:
                        starting.append((name, ready))
            if starting:
                self._wait(*starting.popleft())
        return tuple(name for name in names if name in self.live)

    def _start(self, name: str) -> Callable[[], Live] | None:
        """Start a subject; None where it failed and is not essential."""
        subject = self.subjects[name]
        twin = next((other for other in self._stacks if self.subjects[other] is subject), None)
        if twin is not None:  # it is ready, or will be before this one is waited for
            return lambda: self._twin(twin)
        self.show(f"starting {name}", self.seconds)
        stack = self._stacks[name] = ExitStack()
        try:
            return stack.enter_context(subject.start())
        except (LitmeterError, OSError) as error:
            self._failed(name, error)
            return None

    def _twin(self, other: str) -> Live:
        if other not in self.live:
            raise LitmeterError(f"{other} did not start")
        return self.live[other]

    def _wait(self, name: str, ready: Callable[[], Live]) -> None:
        subject = self.subjects[name]
        try:
            live = ready()
        except LitmeterError as error:
            self._failed(name, error)
            return
        self.live[name] = live
        if live.pid is not None and subject.workers:
            own_bytes = memory_alone(live.pid) / subject.workers
            self.memory.worker_bytes = max(self.memory.worker_bytes, own_bytes)
        if self.gpu:
            taken = self._gpu_before - free_gpu_bytes()
            self.gpu.worker_bytes = taken / max(1, self._workers(list(self._stacks)))

    def _failed(self, name: str, error: Exception) -> None:
        self._end(name)
        if self.subjects[name].essential:
            raise error if isinstance(error, LitmeterError) else ServerError(f"{name}: {error}") from error
        print_wrapped(f"without {name}: {error}")

    def _fits(self, new: Sequence[str]) -> bool:
        """Whether memory holds subjects that start; two servers are served in any case."""
        ready = self._workers(list(self.live))
        if len(self.live) + len(new) <= 2 and all(self.subjects[name].essential for name in new):
            return True
        running = {id(self.subjects[name]) for name in self.live}
        starting = self._workers([name for name in new if id(self.subjects[name]) not in running])
        return self.memory.fits(starting, ready) and (self.gpu is None or self.gpu.fits(starting, ready))

    def _workers(self, names: Sequence[str]) -> int:
        """Processes that hold a model, of subjects that may have several names."""
        distinct = {id(self.subjects[name]): self.subjects[name].workers for name in names}
        return sum(distinct.values())

    def _end(self, name: str) -> None:
        """End a subject, unless another name of it goes on."""
        live = self.live.pop(name, None)
        others = [other for other, one in self.live.items() if one is live and live is not None]
        stack = self._stacks.pop(name, None)
        if others and stack is not None:
            self._stacks[others[0]] = stack
        elif stack is not None:
            stack.close()

    def end_all(self) -> None:
        """End all subjects."""
        for name in list({**self._stacks, **self.live}):
            self._end(name)
