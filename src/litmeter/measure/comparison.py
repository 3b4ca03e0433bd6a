"""Comparison of all configurations in rounds: all are served at once, and one after another is loaded.

Rates of the same round are compared, so that a machine that drifts changes both. The servers that are not
loaded are stopped (SIGSTOP), without a request in flight: LitServe polls while it is idle, which would take
CPU time from the others.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic

import numpy as np
import numpy.typing as npt

from litmeter.errors import LitmeterError, LoadError, ServerError
from litmeter.load import LoadGenerator, LoadPlan, load_generator
from litmeter.measure.inprocess import Pipeline, Pipelines, inprocess_workers, say_without
from litmeter.params import BaselineSettings, ComparisonSettings, LoadSettings, ServeSettings
from litmeter.paths import ModelFolders
from litmeter.serve.client import CONTENT_TYPES
from litmeter.serve.launcher import RunningServer, StartingServer, starting_server
from litmeter.stats.comparison import Rates, Ratio, ratio, ratios
from litmeter.stats.records import OK, WINDOWS, LoadRecord, block_rates
from litmeter.system.machine import cuda_gpu
from litmeter.system.processes import available_memory, memory_of
from litmeter.system.progress import bar, print_wrapped
from litmeter.system.tables import pluralise

DROP_AFTER_ROUNDS, DROP_BELOW, DROP_WIDTH = 16, 0.5, 0.3
"""After so many rounds, a configuration is dropped if the interval of its ratio to the best lies below
DROP_BELOW, and that of its ratio to the reference is no wider than DROP_WIDTH of it."""
FAR_AFTER_ROUNDS, FAR_BELOW = 4, 0.1
"""Sooner, after so many rounds of its own, one is dropped whose mean rate is below FAR_BELOW of the best's
and DROP_BELOW of the reference's: its turns are the longest."""


@dataclass(frozen=True)
class Turn:
    """The measurement of one configuration in one round.

    Attributes:
        rate_rps: good answers per second, None where there was none at all.
        latency_ms: of each good answer that came in the measured time; there may be none.
        failed: requests that were refused, failed or timed out.
        bound_rps: where there was no good answer, what the rate was below.
        pipeline_rps: images per second of the pipeline in-process, right before or after this turn; None
            where it was not measured.
    """

    round: int
    users: int
    name: str
    rate_rps: float | None
    latency_ms: npt.NDArray[np.float64]
    failed: int = 0
    bound_rps: float | None = None
    pipeline_rps: float | None = None

    @property
    def highest_rps(self) -> float:
        """The rate, or what it was below."""
        return self.rate_rps or self.bound_rps or 0.0


@dataclass
class Comparison:
    """The turns so far, and the configurations that are still measured.

    Attributes:
        dropped: configurations that are no longer measured, with the number of rounds by then.
    """

    reference: str
    names: Sequence[str]
    turns: list[Turn] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def remaining(self) -> list[str]:
        """The configurations that the next round measures."""
        return [name for name in self.names if name not in self.dropped]

    def rates(self, users: int) -> dict[str, list[float | None]]:
        """The rate in each round at one load, by configuration."""
        rounds = sorted({turn.round for turn in self.turns if turn.users == users})
        rate_rps = {(turn.name, turn.round): turn.rate_rps for turn in self.turns if turn.users == users}
        return {name: [rate_rps.get((name, number)) for number in rounds] for name in self.names}

    def latencies(self) -> dict[tuple[int, str], list[npt.NDArray[np.float64]]]:
        """The latencies of each turn, ms, by users and configuration."""
        latencies: dict[tuple[int, str], list[npt.NDArray[np.float64]]] = {}
        for turn in self.turns:
            latencies.setdefault((turn.users, turn.name), []).append(turn.latency_ms)
        return latencies

    def fastest_so_far(self, users: int) -> str:
        """The three fastest configurations and their mean rates, as text for the progress bar."""
        answered = {name: [rate for rate in rates if rate] for name, rates in self.rates(users).items()}
        means = {name: np.mean(rates) for name, rates in answered.items() if rates}
        fastest = sorted(means, key=lambda name: means[name], reverse=True)[:3]
        ranking = ", ".join(f"{name} {means[name]:.0f}" for name in fastest)
        return f"; fastest so far: {ranking} req/s" if ranking else ""

    def drop_slow(self, loads: Sequence[int]) -> None:
        """Drop the configurations that are slow beyond doubt at each number of users of ``loads``."""
        rounds = 1 + max(turn.round for turn in self.turns if turn.users in loads)
        for name in set.intersection(*(self._slow_at(users) for users in loads)):
            self.dropped[name] = rounds

    def far_behind(self, users: int) -> dict[str, int]:
        """Those far behind the best at one load so far, with their number of rounds; not the reference."""
        relative = self._relative(users)
        best = self._best(users, relative)
        if best is None:
            return {}
        limit = min(DROP_BELOW, FAR_BELOW * _mean(relative[best]))
        return {
            name: len(shares)
            for name, shares in relative.items()
            if name != self.reference and shares and _mean(shares) < limit
        }

    def _slow_at(self, users: int) -> set[str]:
        """Those that are slow beyond doubt; not those of a later group, who have had no turn."""
        slow = {name for name, rounds in self.far_behind(users).items() if rounds >= FAR_AFTER_ROUNDS}
        relative, all_rates = self._relative(users), self.rates(users)
        best = self._best(users, relative)
        if best is None:
            return slow
        answered = {name: all_rates[name] for name in relative if self._in_common(all_rates, name)}
        to_reference = ratios(answered, self.reference)
        for name in answered.keys() - {self.reference, best}:
            if len(relative[name]) >= DROP_AFTER_ROUNDS and is_narrow(to_reference[name]):
                highest = ratio(answered, name, best, self.reference).high
                if highest is not None and highest < DROP_BELOW:
                    slow.add(name)
        return slow

    def _relative(self, users: int) -> dict[str, list[float]]:
        """Rates over the reference's in each round, or what those were below, of the remaining ones."""
        turns = [turn for turn in self.turns if turn.users == users]
        reference = {turn.round: turn.rate_rps for turn in turns if turn.name == self.reference}
        return {
            name: [
                turn.highest_rps / of_reference
                for turn in turns
                if turn.name == name and (of_reference := reference.get(turn.round))
            ]
            for name in self.remaining
        }

    def _in_common(self, rates: Rates, name: str) -> bool:
        """Whether it answered in a round in which the reference did."""
        return any(own and other for own, other in zip(rates[name], rates[self.reference], strict=True))

    def _best(self, users: int, relative: Mapping[str, Sequence[float]]) -> str | None:
        """The fastest of those that answered in a round in which the reference did."""
        all_rates = self.rates(users)
        means = {name: _mean(shares) for name, shares in relative.items() if self._in_common(all_rates, name)}
        return max(means, key=lambda name: means[name]) if self.reference in means else None


def _mean(shares: Sequence[float]) -> float:
    """The geometric mean; 0 where one of them is."""
    return float(np.exp(np.mean(np.log(shares)))) if all(shares) else 0.0


def is_narrow(own: Ratio) -> bool:
    """Whether the interval of a ratio is no wider than DROP_WIDTH of it."""
    return own.low is not None and own.high is not None and own.high - own.low <= DROP_WIDTH * own.ratio


WARMUP_S = 0.15
"""Once every user has had an answer: from then on rates keep their level."""
SLOW_TURN_S = 8.0
ANSWERS_PER_USER = 3
"""A turn's measurement lasts until this many answers per user, but at most SLOW_TURN_S."""
FIRST_ANSWERS_S = 2.0
"""A server that takes longer for its users' first answers is slow: its whole turn is measured, in which each
user sends ANSWERS_PER_USER requests, for at most SLOW_TURN_S. It would take twice as long with the load kept
up before and after the measurement."""
MEMORY_RESERVE = 1.2
"""Workers grow under load. So the next server starts if this times the largest worker's memory is free for
each worker of it and of those that still start, and a fifth of it for each that is ready. Models are loaded
once more, without servers, if this times their servers' memory is free."""
STARTED_AT_ONCE = 5
"""Servers, once the first one is ready: each starts its processes one after another, with a core idle. On a
GPU one, as what is free there says nothing of a single server while others load."""


class PausedServer:
    """A server that is stopped except during its turns."""

    def __init__(self, name: str, server: RunningServer) -> None:
        self.name = name
        self.pid = server.pid
        self._server = server
        server.pause()

    def kill(self) -> None:
        """End it at once, to free its memory; it takes no more turns."""
        self._server.kill()

    def take_turn(
        self,
        generator: LoadGenerator,
        load: LoadSettings,
        number: int,
        users: int,
        turn_s: float,
    ) -> Turn:
        """Continue the server, load it, and stop it when no request is in flight.

        Args:
            turn_s: seconds that are measured, at least; see SLOW_TURN_S and FIRST_ANSWERS_S.

        Raises:
            ServerError: the server died; LoadError: the load generator failed.
        """
        plan = LoadPlan(
            users=users,
            requests=ANSWERS_PER_USER * users,
            warmup_s=WARMUP_S,
            min_s=turn_s,
            max_s=SLOW_TURN_S,
            max_windows=WINDOWS,
            timeout_s=load.timeout_s,
            seed=load.seed,
            repeat=number,
            give_up_s=FIRST_ANSWERS_S,
        )
        with named(self.name):
            return turn_of(self.name, number, self._record(generator, plan))

    def _record(self, generator: LoadGenerator, plan: LoadPlan) -> LoadRecord:
        self._server.check()
        self._server.resume()
        try:
            return generator.run(
                f"{self._server.url}/predict", plan, on_progress=lambda *_: self._server.check()
            )
        except LoadError:
            self._server.check()
            raise
        finally:
            self._server.pause()


def turn_of(name: str, number: int, record: LoadRecord) -> Turn:
    """Rate and latencies of a record.

    A request counts in the share of it that lies within the window, so one that is answered after its end
    does, too. Without any, the rate was below all good answers, and one more per user, over the load's time.
    """
    good = record.status == OK
    failed = int((~good).sum())
    rate_rps = float(block_rates(record.start[good], record.end[good], *record.window).mean())
    if not rate_rps:
        bound_rps = float((good.sum() + record.users) / (record.end.max() - record.start.min()))
        return Turn(number, record.users, name, None, np.array([]), failed, bound_rps)
    latency_ms = 1000 * (record.end - record.start)[good & record.in_window]
    return Turn(number, record.users, name, rate_rps, latency_ms, failed)


@contextmanager
def named(configuration: str) -> Iterator[None]:
    """Raise a server's error with the name of its configuration."""
    try:
        yield
    except ServerError as error:
        raise ServerError(f"{configuration}: {error}") from error


@dataclass
class Memory:
    """Whether a kind of memory has room for another server.

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


def has_room_for_copies(
    servers: Sequence[PausedServer], more_bytes: int, gpu_share: float, device: str
) -> bool:
    """Whether memory has room for what ``servers`` take once more, and ``more_bytes``.

    Args:
        gpu_share: their share of the GPU's memory that is in use; nothing on a CPU depends on it.
    """
    own_bytes = sum(memory_of(server.pid) for server in servers)
    if available_memory() < MEMORY_RESERVE * (own_bytes + more_bytes):
        return False
    gpu = cuda_gpu() if device == "cuda" else None
    return gpu is None or bool(gpu.memory_available >= MEMORY_RESERVE * gpu_share * gpu.memory_used)


@contextmanager
def paused_servers(
    names: Sequence[str],
    configurations: Mapping[str, ServeSettings],
    folders: ModelFolders,
    device: str,
    timeout_s: float,
    free_bytes: Callable[[], int] = available_memory,
    free_gpu: Callable[[], int] = free_gpu_bytes,
) -> Iterator[list[PausedServer]]:
    """Start servers of the first of ``names``, as many as fit into memory; stop each once it is ready.

    Args:
        free_bytes, free_gpu: memory that is free, of the machine and, on the device "cuda", of its GPU.

    Raises:
        ServerError: a server did not start.
    """
    memory = Memory(free_bytes)
    gpu = Memory(free_gpu) if device == "cuda" else None
    gpu_before = free_gpu() if gpu else 0
    with ExitStack() as stack:
        group: list[PausedServer] = []
        starting: deque[tuple[str, StartingServer]] = deque()
        most = 1 if gpu else STARTED_AT_ONCE
        waiting, fits = deque(names), True

        def workers_of(some: Sequence[str]) -> int:
            return sum(configurations[name].workers_per_device for name in some)

        while starting or (waiting and fits):
            while waiting and fits and len(starting) < (most if group else 1):
                new = workers_of([*(name for name, _ in starting), waiting[0]])
                ready = workers_of([server.name for server in group])
                fits = len(group) + len(starting) < 2 or (
                    memory.fits(new, ready) and (gpu is None or gpu.fits(new, ready))
                )
                if fits:
                    name = waiting.popleft()
                    server = starting_server(folders, configurations[name], device, timeout_s)
                    starting.append((name, stack.enter_context(server)))
            if starting:
                name, first = starting.popleft()
                with named(name):
                    group.append(PausedServer(name, first.ready()))
                own_bytes = memory_of(group[-1].pid) / configurations[name].workers_per_device
                memory.worker_bytes = max(memory.worker_bytes, own_bytes)
                if gpu:
                    taken = gpu_before - free_gpu()
                    gpu.worker_bytes = taken / workers_of([server.name for server in group])
        yield group


TURN_S = 1.0
"""Short turns make more rounds, with less time between the configurations that are compared."""
FAR_SHARE = 0.35
"""Of the turns' time, for all together that are far behind: their turns last longest, as their first and last
answers do. They miss rounds until they have had less."""
FEWEST_ROUNDS = 3
"""However short the time: two rounds give no useful interval."""
LONE_USER, LONE_USER_ROUNDS, LONE_USER_FROM_S = 1, 2, 200.0
"""From `comparison.seconds` of LONE_USER_FROM_S on, rounds of a single user come first, without ranks."""
PIPELINES_EVERY = 4
"""After so many rounds those far behind are known. From then on the first two of so many rounds measure the
pipelines of all others as well, each beside its server's turn: before it in one, after it in the other."""
ALONE_ROUNDS = 3 * PIPELINES_EVERY
"""In all, where all others have left and the reference alone goes on: four of them measure its pipeline."""
RESTART_FROM_S = 600.0
"""From this budget on all servers are restarted halfway, as processes of the same configuration differ."""
PIPELINE_KEYS = {
    *("precision", "compiled", "preprocess", "max_megapixels", "keep_freed_memory"),
    *("workers_per_device", "threads_per_worker"),
}
"""Keys of a configuration on which its pipeline depends. Configurations that agree in all of them share
processes."""


StartPipelines = Callable[
    [Sequence[PausedServer], Sequence[PausedServer], Sequence[int]], AbstractContextManager[Pipelines]
]
"""Runs the pipelines of some of all servers in-process; see ``running_pipelines``."""


@dataclass
class RoundRunner:
    """Runs the rounds of servers that run at once.

    Attributes:
        show: called at each turn with a text for the progress bar.
        start_pipelines: None for served rates alone.
        starts_s: seconds that the servers took to start; as much is allowed for the pipelines.
        turns_s: how long the turns of each configuration have taken together, seconds.
        last_s: how long its last one took, by number of users, and whether its pipeline was measured with it.
    """

    comparison: Comparison
    generator: LoadGenerator
    load: LoadSettings
    show: Callable[[str], None]
    start_pipelines: StartPipelines | None = None
    starts_s: float = 0.0
    turns_s: dict[str, float] = field(default_factory=dict)
    last_s: dict[tuple[str, int, bool], float] = field(default_factory=dict)

    def run_lone_user_rounds(self, group: Sequence[PausedServer]) -> None:
        """Run LONE_USER_ROUNDS with a single user."""
        first = self._next_round([LONE_USER])
        for number in range(first, first + LONE_USER_ROUNDS):
            self._run_round(group if number % 2 else group[::-1], number, LONE_USER)

    def run_rounds(self, group: Sequence[PausedServer], users: Sequence[int], until: float) -> None:
        """Run rounds at each number of ``users`` until the time ``until``, FEWEST_ROUNDS at least.

        They end sooner where nobody is left to compare the reference with.
        Of two successive rounds, the first has a random order and the second its reverse.
        """
        rng = random.Random(f"{self.load.seed}/{len(self.comparison.turns)}")
        order, first, done = list(group), self._next_round(users), 0
        pipelines: Pipelines | None = None
        beside: Pipelines | None = None
        with ExitStack() as stack:
            while done < FEWEST_ROUNDS or monotonic() + self._round_s(order, users, beside) < until:
                order = order[::-1]
                if done % 2 == 0:
                    rng.shuffle(order)
                for count in users:
                    self._run_round(self._taking_turns(order, count), first + done, count, beside)
                self.comparison.drop_slow(users)
                order = [server for server in order if server.name not in self.comparison.dropped]
                done += 1
                if len(order) == 1 and done >= ALONE_ROUNDS:
                    break
                if pipelines is None and done % PIPELINES_EVERY == 0 and self._has_time(until, order, users):
                    pipelines = stack.enter_context(self._pipelines(group, users))
                beside = pipelines if done % PIPELINES_EVERY < 2 else None

    def _has_time(self, until: float, order: Sequence[PausedServer], users: Sequence[int]) -> bool:
        """Whether pipelines can start before ``until``, with PIPELINES_EVERY rounds left."""
        round_s = self._round_s(order, users, None)
        return (
            self.start_pipelines is not None
            and monotonic() + self.starts_s + PIPELINES_EVERY * round_s < until
        )

    def _round_s(
        self, order: Sequence[PausedServer], users: Sequence[int], pipelines: Pipelines | None
    ) -> float:
        """What the next round will take, by the last turns of those that take one."""
        turns = [(server.name, count) for count in users for server in self._taking_turns(order, count)]
        beside = pipelines is not None
        return sum(
            self.last_s.get((*turn, beside), self.last_s.get((*turn, not beside), 0.0)) for turn in turns
        )

    def _taking_turns(self, order: Sequence[PausedServer], users: int) -> Sequence[PausedServer]:
        """``order``, without those far behind while these have had their share of the time."""
        far_behind = self.comparison.far_behind(users).keys() & {server.name for server in order}
        had_s = sum(self.turns_s.get(name, 0.0) for name in far_behind)
        if had_s < FAR_SHARE * sum(self.turns_s.values()):
            return order
        return [server for server in order if server.name not in far_behind]

    def _pipelines(
        self, group: Sequence[PausedServer], users: Sequence[int]
    ) -> AbstractContextManager[Pipelines]:
        """Those of servers that still take part, and are far behind at none of ``users``."""
        assert self.start_pipelines is not None
        left_out = {*self.comparison.dropped}.union(*(self.comparison.far_behind(count) for count in users))
        self.show("starting pipelines in-process")
        chosen = [server for server in group if server.name not in left_out]
        return self.start_pipelines(chosen, group, users)

    def _next_round(self, users: Sequence[int]) -> int:
        """Its number; each group of servers has rounds of its own."""
        return 1 + max((turn.round for turn in self.comparison.turns if turn.users in users), default=-1)

    def _run_round(
        self, order: Sequence[PausedServer], number: int, users: int, pipelines: Pipelines | None = None
    ) -> None:
        for server in order:
            name = server.name
            fastest = self.comparison.fastest_so_far(users)
            self.show(f"round {number + 1}, {pluralise(users, 'user')}, now {name}{fastest}")
            began = monotonic()
            before_rps = pipelines.rate_rps(name, users) if pipelines and number % 2 else None
            turn = server.take_turn(self.generator, self.load, number, users, TURN_S)
            after_rps = pipelines.rate_rps(name, users) if pipelines and not number % 2 else None
            turn_s = monotonic() - began
            self.last_s[name, users, pipelines is not None] = turn_s
            self.turns_s[name] = self.turns_s.get(name, 0.0) + turn_s
            self.comparison.turns.append(replace(turn, pipeline_rps=before_rps or after_rps))


def compare(
    configurations: Mapping[str, ServeSettings],
    folders: ModelFolders,
    device: str,
    bodies: Sequence[bytes],
    load: LoadSettings,
    settings: ComparisonSettings,
    budget_s: float,
    start_pipelines: StartPipelines | None = None,
) -> Comparison:
    """Measure ``configurations``, the reference among them, in rounds until the budget is used up.

    Args:
        bodies: in the form that ``load.request_body`` names.
        budget_s: seconds, the servers' starts included.
        start_pipelines: None for served rates alone. There are none if servers are compared in groups.

    Raises:
        ServerError: a server did not start, or died; LoadError: the load generator failed.
    """
    comparison = Comparison(settings.reference, list(configurations))
    deadline = monotonic() + budget_s
    parts = 2 if budget_s >= RESTART_FROM_S else 1
    with (
        load_generator(bodies, CONTENT_TYPES[load.request_body]) as generator,
        bar(round(budget_s), "comparison", "s") as progress,
    ):

        def show(text: str) -> None:
            progress.set_postfix_str(text)
            progress.update(max(0, round(budget_s - (deadline - monotonic())) - progress.n))

        for part in range(parts):
            part_end = deadline - (parts - 1 - part) * budget_s / parts
            waiting = [name for name in comparison.remaining if name != settings.reference]
            in_groups = False
            while waiting:
                names = [settings.reference, *waiting]
                began = monotonic()
                with paused_servers(names, configurations, folders, device, load.timeout_s) as group:
                    share = (len(group) - 1) / len(waiting)
                    waiting = waiting[len(group) - 1 :]
                    in_groups = in_groups or bool(waiting)
                    if waiting:
                        in_group = ", ".join(server.name for server in group)
                        print_wrapped(f"in groups, for want of memory: {in_group}")
                    starter = None if in_groups else start_pipelines
                    starts_s = monotonic() - began
                    runner = RoundRunner(comparison, generator, load, show, starter, starts_s)
                    if part == 0 and LONE_USER not in settings.users and settings.seconds >= LONE_USER_FROM_S:
                        runner.run_lone_user_rounds(group)
                    runner.run_rounds(group, settings.users, monotonic() + share * (part_end - monotonic()))
    return comparison


@contextmanager
def running_pipelines(
    servers: Sequence[PausedServer],
    all_servers: Sequence[PausedServer],
    users: Sequence[int],
    *,
    configurations: Mapping[str, ServeSettings],
    folders: ModelFolders,
    device: str,
    photos: Sequence[Path],
    settings: BaselineSettings,
) -> Iterator[Pipelines]:
    """Run the pipelines of ``servers`` until the block is left; none where memory has no room for them.

    Args:
        all_servers: those and all others that run.
        users: numbers of them, at which rates are asked for.
        configurations: of all servers.
        photos: image files, which the pipelines take from memory.
    """
    server_of: dict[str, PausedServer] = {}
    names_of: dict[str, list[str]] = {}
    for server in servers:
        keys = configurations[server.name].model_dump_json(include=PIPELINE_KEYS)
        server_of.setdefault(keys, server)
        names_of.setdefault(keys, []).append(server.name)
    copied = list(server_of.values())
    workers, all_workers = (
        sum(configurations[server.name].workers_per_device for server in some)
        for some in (copied, all_servers)
    )
    photo_bytes = len(copied) * sum(photo.stat().st_size for photo in photos)
    if not has_room_for_copies(copied, photo_bytes, workers / all_workers, device):
        print_wrapped("no in-process rates in the rounds, for want of memory")
        yield Pipelines({}, configurations)
        return
    with ExitStack() as stack:
        by_name: dict[str, Pipeline] = {}
        for names in names_of.values():
            serve = configurations[names[0]]
            try:
                starting = inprocess_workers(folders, serve, device, photos, settings)
                processes = stack.enter_context(starting)
            except (LitmeterError, OSError) as error:
                say_without(names, error)
            else:
                by_name |= dict.fromkeys(names, Pipeline(processes))
        pipelines = Pipelines(by_name, configurations)
        pipelines.prepare(users)
        yield pipelines
