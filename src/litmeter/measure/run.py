"""The one loop that measures: it starts subjects, gives them their turns, and keeps the log.

Servers, clock, progress, limits of memory and telemetry are here alone. On an exception, such as Ctrl-C, all
that was started is stopped; the log has what was measured.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import TypeVar

import pynvml

from litmeter.errors import LitmeterError, ServerError
from litmeter.measure.figures import inprocess_row, machine_row, served_row
from litmeter.measure.log import Log
from litmeter.measure.subjects import Done, NoRoomError, Subject
from litmeter.measure.telemetry import Telemetry
from litmeter.measure.turn import Answer, LeftOut, MakeReady, Ready, Sample, Schedule, Turn, Work
from litmeter.say.progress import bar, print_wrapped
from litmeter.system.gpu import read_gpu
from litmeter.system.memory import ScatteredMemory, available_memory
from litmeter.system.processes import memory_alone

Result = TypeVar("Result")
Show = Callable[[str, float, float], None]
"""Shows progress: what is being done, the seconds so far, and the seconds expected in all."""


def run(
    schedule: Schedule[Result],
    subjects: Mapping[str, Subject],
    log: Log,
    budget_s: float,
    show: Show | None = None,
    spent_s: float = 0.0,
) -> Result:
    """Measure what ``schedule`` asks for until it returns.

    Turns that ``log`` has from a stopped run are not measured again.

    Args:
        budget_s: expected seconds, for the progress.
        show: None for a progress bar.
        spent_s: seconds of the budget that were spent before; the log's clock begins there.

    Raises:
        LitmeterError: a server did not start, or died; the load generator failed; the log cannot be written.
    """
    with ExitStack() as stack:
        scattered = ScatteredMemory(min(TAKING_S, TAKING_SHARE * budget_s))
        stack.callback(scattered.give_back)
        show = show or stack.enter_context(progress(budget_s, spent_s=spent_s))
        loop = _Loop(subjects, log, scattered, show, budget_s, spent_s)
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
def progress(budget_s: float, title: str = "measuring", spent_s: float = 0.0) -> Iterator[Show]:
    """A progress bar in seconds, which begins at ``spent_s``."""
    with bar(round(budget_s), title, "s", min(round(spent_s), round(budget_s))) as shown:

        def show(text: str, seconds: float, end_s: float) -> None:
            shown.set_postfix_str(text)
            shown.total = round(end_s)
            shown.update(max(0, min(round(seconds), shown.total) - round(shown.n)))

        yield show


MEMORY_RESERVE = 1.2
"""Workers grow under load: a subject starts only if for each of its workers, and of workers that are still
starting, this multiple of the largest worker's memory is free, and a fifth of it for each ready worker."""
STARTED_AT_ONCE = 5
"""Subjects that start side by side, once the first is ready: each starts its processes one after another and
leaves a core idle. On a GPU one, as its free memory says nothing about one of several that load."""
NO_MEMORY = "there is no memory for it"
TAKING_S, TAKING_SHARE = 10.0, 1 / 10
"""Longest time that taking scattered memory may last, in seconds and as a share of the budget."""


@dataclass
class Memory:
    """A machine's or a GPU's memory: free bytes, and bytes of its largest worker (on a GPU, of the mean)."""

    free_bytes: Callable[[], float]
    worker_bytes: float = 0.0

    def fits(self, new: int, ready: int) -> bool:
        """Whether ``new`` workers have room beside ``ready`` ones."""
        needed = self.worker_bytes * (MEMORY_RESERVE * new + (MEMORY_RESERVE - 1) * ready)
        return self.free_bytes() >= needed


def free_gpu_bytes() -> float:
    """Free bytes of the first CUDA device; infinite if they are not known."""
    try:
        return read_gpu().free_mib * 2**20
    except pynvml.NVMLError:  # telemetry says it
        return math.inf


@dataclass
class _Loop:
    """The subjects that run, the clock, and the log."""

    subjects: Mapping[str, Subject]
    log: Log
    scattered: ScatteredMemory
    shown: Show
    budget_s: float
    spent_s: float

    def __post_init__(self) -> None:
        self.end_s = self.budget_s
        self.live: list[Subject] = []
        self.memory = Memory(available_memory)
        on_gpu = any(subject.gpu_workers for subject in self.subjects.values())
        self.gpu = Memory(free_gpu_bytes) if on_gpu else None
        self.gpu_before = free_gpu_bytes() if on_gpu else 0
        self.began: float | None = None
        self.stacks: dict[Subject, ExitStack] = {}
        self.wanted: tuple[str, ...] = ()
        self.left_out: dict[Subject, str] = {}  # that failed, and why
        self.telemetry = Telemetry(on_gpu)

    @property
    def seconds(self) -> float:
        """Seconds since the log's begin, without the pause between a stopped run and this run."""
        if self.began is None:  # all that was measured before has been repeated
            self.began = monotonic() - max(self.log.reached_s, self.spent_s)
        return monotonic() - self.began

    def show(self, text: str) -> None:
        """Show what is being done."""
        self.shown(text, self.seconds, self.end_s)

    def answer(self, asked: Turn | MakeReady) -> Answer:
        """Answer from the log, or else by measuring."""
        answer = self.log.repeated(asked)
        if answer is None:
            if isinstance(asked, MakeReady):
                names = self.make_ready(asked.names)
                ready_s = {name: self.subjects[name].ready_s for name in names}
                answer = Ready(names, round(self.seconds, 3), ready_s)
            else:
                answer = self.measure(asked)
            self.log.add(asked, answer)
        if isinstance(answer, Ready):
            self.wanted = answer.names
        for name in self.log.left_out.keys() & self.subjects.keys():  # also of a stopped run
            self.left_out.setdefault(self.subjects[name], self.log.left_out[name])
        return answer

    def measure(self, turn: Turn) -> Sample | LeftOut:
        """Wake a subject, load it, put it to sleep.

        If it cannot be started, or fails, it is left out, or raises LitmeterError if it is essential.
        """
        at_s, subject = self.seconds, self.subjects[turn.subject]
        if subject not in self.live and subject not in self.left_out:
            self.make_ready(dict.fromkeys([*self.wanted, turn.subject]))
            self.began = monotonic() - at_s  # a stopped run had it ready: no time of the log
        if subject not in self.live:
            reason = self.left_out.get(subject, NO_MEMORY)
            if subject.essential:
                raise LitmeterError(f"{turn.subject} cannot be measured: {reason}")
            return LeftOut(turn.subject, reason, round(self.seconds, 3))
        text = f"{turn.note}, now {turn.subject}" if turn.note else turn.subject

        def tick() -> None:
            self.telemetry.tick()
            self.show(text)

        self.end_s = turn.end_s or self.budget_s
        self.show(text)
        try:
            with subject.awake():
                before = subject.scrape()
                self.telemetry.begin(subject.pid, subject.client_pid)
                found = subject.load(turn, tick)
                usage = self.telemetry.end()
                after = subject.scrape()
                own_bytes = None if subject.pid is None else memory_alone(subject.pid)
        except NoRoomError as error:
            print_wrapped(f"without a turn of {turn.subject}: {error}")
            return LeftOut(turn.subject, str(error), round(self.seconds, 3), takes_others=True)
        except LitmeterError as error:
            self._failed(subject, error)
            return LeftOut(turn.subject, self.left_out[subject], round(self.seconds, 3))
        row = machine_row(turn, len(self.log.samples), at_s, self.seconds - at_s, usage)
        if isinstance(found, Done):
            assert isinstance(turn.load, Work)
            times = found.blocks, found.cpu_ms, found.first_ms
            return Sample(turn, inprocess_row(row, turn.load, usage, *times))
        scrapes = (before, after) if before and after else None
        return Sample(turn, served_row(row, turn, found, usage, scrapes, own_bytes), found)

    def make_ready(self, names: Iterable[str]) -> tuple[str, ...]:
        """Have only these subjects ready, as many as memory holds; return the names of the ready ones."""
        subjects = (self.subjects[name] for name in names)
        wanted = dict.fromkeys(subject for subject in subjects if subject not in self.left_out)
        for subject in [one for one in self.live if one not in wanted]:
            self._end(subject)
        waiting = deque(subject for subject in wanted if subject not in self.live)
        starting: dict[Subject, Callable[[], None]] = {}
        fits = True
        while starting or (waiting and fits):
            most = STARTED_AT_ONCE if self.live and not self.gpu else 1
            while waiting and len(starting) < most and (fits := fits and self._fits([*starting, waiting[0]])):
                self._start(waiting.popleft(), starting)
            if starting:
                first = next(iter(starting))
                self._wait(first, starting.pop(first))
        for subject in waiting:
            if not subject.essential:
                print_wrapped(f"without {', '.join(self._names(subject))}: {NO_MEMORY}")
        return tuple(name for name in names if self.subjects[name] in self.live)

    def _start(self, subject: Subject, starting: dict[Subject, Callable[[], None]]) -> None:
        self.show(f"starting {self._names(subject)[0]}")
        stack = self.stacks[subject] = ExitStack()
        subject.room = self._has_room
        if subject.workers:  # it starts processes
            self.scattered.take()
        try:
            starting[subject] = stack.enter_context(subject.start())
        except (LitmeterError, OSError) as error:
            self._failed(subject, error)

    def _wait(self, subject: Subject, ready: Callable[[], None]) -> None:
        try:
            ready()
        except LitmeterError as error:
            self._failed(subject, error)
            return
        self.live.append(subject)
        if subject.pid is not None and subject.workers:
            own_bytes = memory_alone(subject.pid) / subject.workers
            self.memory.worker_bytes = max(self.memory.worker_bytes, own_bytes)
        if self.gpu and math.isfinite(self.gpu_before):
            taken = self.gpu_before - free_gpu_bytes()
            self.gpu.worker_bytes = max(0.0, taken) / max(1, sum(one.gpu_workers for one in self.stacks))

    def _failed(self, subject: Subject, error: Exception) -> None:
        self._end(subject)
        names = ", ".join(self._names(subject))
        if subject.essential:
            raise error if isinstance(error, LitmeterError) else ServerError(f"{names}: {error}") from error
        print_wrapped(f"without {names}: {error}")
        self.left_out[subject] = str(error)

    def _names(self, subject: Subject) -> list[str]:
        return [name for name, one in self.subjects.items() if one is subject]

    def _fits(self, new: Sequence[Subject]) -> bool:
        """Whether memory holds the ``new`` subjects, too; two servers may start in any case."""
        if len(self.live) + len(new) <= 2 and all(subject.essential for subject in new):
            return True
        if self.gpu and not self.gpu.fits(
            *(sum(one.gpu_workers for one in each) for each in (new, self.live))
        ):
            return False
        return self._has_room(sum(one.workers for one in new))

    def _has_room(self, further: int) -> bool:
        """Whether memory holds so many further workers."""
        ready = sum(one.workers for one in self.live)
        fits = self.memory.fits(further, ready)
        return fits or (self.scattered.give_back() and self.memory.fits(further, ready))

    def _end(self, subject: Subject) -> None:
        self.live = [one for one in self.live if one is not subject]
        self.stacks.pop(subject).close()

    def end_all(self) -> None:
        """End all subjects."""
        for subject in list(self.stacks):
            self._end(subject)
