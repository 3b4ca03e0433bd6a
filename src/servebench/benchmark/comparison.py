"""Comparison of all configurations in rounds: all are served at once, and one after another is loaded.

Rates of the same round are compared, so that a machine that drifts changes both. The servers that are not
loaded are stopped (SIGSTOP), without a request in flight: LitServe polls while it is idle, which would take
CPU time from the others.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from time import monotonic

from servebench.benchmark.turns import Comparison, Turn
from servebench.errors import LoadError, ServerError
from servebench.loadgen import LoadGenerator, LoadPlan, load_generator
from servebench.params import ComparisonSettings, LoadSettings, ServeSettings
from servebench.paths import ModelFolders
from servebench.serving.client import CONTENT_TYPES
from servebench.serving.launcher import RunningServer, StartingServer, starting_server
from servebench.stats.rates import block_rates
from servebench.stats.records import OK, LoadRecord
from servebench.stats.stability import WINDOWS
from servebench.system.processes import available_memory, memory_of
from servebench.system.progress import bar, print_wrapped

WARMUP_S = 0.35
TURN_S = 1.0
SLOW_TURN_S = 8.0
ANSWERS_PER_USER = 3
"""A turn lasts TURN_S and until this many answers per user, but at most SLOW_TURN_S. A server that takes
longer than that for its users' first answers gets no more requests in its turn. Short turns make more rounds,
with less time between the configurations that are compared."""
FEWEST_ROUNDS = 3
"""However short the time: two rounds give no useful interval."""
LONE_USER, LONE_USER_ROUNDS, LONE_USER_TURN_S, LONE_USER_FROM_S = 1, 2, 1.0, 200.0
"""From this budget on, the rate of a single user is measured as well, but not ranked."""
RESTART_FROM_S = 600.0
"""From this budget on all servers are restarted halfway, as processes of the same configuration differ."""
MEMORY_RESERVE = 1.2
"""The next server starts if this times the memory of the largest worker so far is free per worker of it, and
the rest for each worker that runs: they grow under load."""
STARTED_AT_ONCE = 2
"""Servers, once the first one is ready: each starts its processes one after another, with a core idle."""


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
        self, generator: LoadGenerator, load: LoadSettings, number: int, users: int, turn_s: float
    ) -> Turn:
        """Continue the server, load it, and stop it when no request is in flight.

        Raises:
            ServerError: the server died; LoadError: the load generator failed.
        """
        with named(self.name):
            return self._take_turn(generator, load, number, users, turn_s)

    def _take_turn(
        self, generator: LoadGenerator, load: LoadSettings, number: int, users: int, turn_s: float
    ) -> Turn:
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
            give_up_s=SLOW_TURN_S,
        )
        self._server.check()
        self._server.resume()
        try:
            record = generator.run(
                f"{self._server.url}/predict", plan, on_progress=lambda *_: self._server.check()
            )
        except LoadError:
            self._server.check()
            raise
        finally:
            self._server.pause()
        return turn_of(self.name, number, record)


def turn_of(name: str, number: int, record: LoadRecord) -> Turn:
    """Rate and latencies of a record."""
    good = record.status == OK
    rate_rps = float(block_rates(record.start[good], record.end[good], *record.window).mean())
    reported = good & record.in_window
    latency_ms = 1000 * (record.end - record.start)[reported]
    failed = int((~good).sum())
    return Turn(number, record.users, name, rate_rps if reported.any() else None, latency_ms, failed)


@contextmanager
def named(configuration: str) -> Iterator[None]:
    """Raise a server's error with the name of its configuration."""
    try:
        yield
    except ServerError as error:
        raise ServerError(f"{configuration}: {error}") from error


@contextmanager
def paused_servers(
    names: Sequence[str],
    configurations: Mapping[str, ServeSettings],
    folders: ModelFolders,
    device: str,
    timeout_s: float,
    free_bytes: Callable[[], int] = available_memory,
) -> Iterator[list[PausedServer]]:
    """Start servers of the first of ``names``, as many as fit into memory; stop each once it is ready.

    Raises:
        ServerError: a server did not start.
    """
    with ExitStack() as stack:
        group: list[PausedServer] = []
        starting: deque[tuple[str, StartingServer]] = deque()
        waiting, fits, worker_bytes = deque(names), True, 0.0
        while starting or (waiting and fits):
            while waiting and fits and len(starting) < (STARTED_AT_ONCE if group else 1):
                loading = [*(name for name, _ in starting), waiting[0]]
                new, ready = (
                    sum(configurations[name].workers_per_device for name in part)
                    for part in (loading, [server.name for server in group])
                )
                needed_bytes = worker_bytes * (MEMORY_RESERVE * new + (MEMORY_RESERVE - 1) * ready)
                fits = len(group) + len(starting) < 2 or free_bytes() >= needed_bytes
                if fits:
                    name = waiting.popleft()
                    server = starting_server(folders, configurations[name], device, timeout_s)
                    starting.append((name, stack.enter_context(server)))
            if starting:
                name, first = starting.popleft()
                with named(name):
                    group.append(PausedServer(name, first.ready()))
                own_bytes = memory_of(group[-1].pid) / configurations[name].workers_per_device
                worker_bytes = max(worker_bytes, own_bytes)
        yield group


@dataclass
class RoundRunner:
    """Runs the rounds of a comparison.

    Attributes:
        show: called at each turn with a text for the progress bar.
    """

    comparison: Comparison
    generator: LoadGenerator
    load: LoadSettings
    show: Callable[[str], None]

    def run_lone_user_rounds(self, group: Sequence[PausedServer]) -> None:
        """Run LONE_USER_ROUNDS with a single user."""
        first = self._next_round([LONE_USER])
        for number in range(first, first + LONE_USER_ROUNDS):
            self._run_round(group if number % 2 else group[::-1], number, LONE_USER, LONE_USER_TURN_S)

    def run_rounds(self, group: Sequence[PausedServer], users: Sequence[int], until: float) -> None:
        """Run rounds at each number of ``users`` until the time ``until``, FEWEST_ROUNDS at least.

        Of two successive rounds, the first has a random order and the second its reverse.
        """
        rng = random.Random(f"{self.load.seed}/{len(self.comparison.turns)}")
        next_order, last_round_s = list(group), 0.0
        first = number = self._next_round(users)
        while number - first < FEWEST_ROUNDS or monotonic() + last_round_s < until:
            started = monotonic()
            order = [server for server in next_order if server.name not in self.comparison.dropped]
            if (number - first) % 2 == 0:
                rng.shuffle(order)
            next_order = order[::-1]
            for count in users:
                self._run_round(order, number, count, TURN_S)
            self.comparison.drop_slow(users)
            last_round_s = monotonic() - started
            number += 1

    def _next_round(self, users: Sequence[int]) -> int:
        """Its number; each group of servers has rounds of its own."""
        return 1 + max((turn.round for turn in self.comparison.turns if turn.users in users), default=-1)

    def _run_round(self, order: Sequence[PausedServer], number: int, users: int, turn_s: float) -> None:
        for server in order:
            fastest = self.comparison.fastest_so_far(users)
            self.show(f"round {number + 1}, {users} users, now {server.name}{fastest}")
            self.comparison.turns.append(server.take_turn(self.generator, self.load, number, users, turn_s))


def compare(
    configurations: Mapping[str, ServeSettings],
    folders: ModelFolders,
    device: str,
    bodies: Sequence[bytes],
    load: LoadSettings,
    settings: ComparisonSettings,
    budget_s: float,
) -> Comparison:
    """Measure ``configurations``, the reference among them, in rounds until the budget is used up.

    Args:
        bodies: in the form that ``load.request_body`` names.
        budget_s: seconds, the servers' starts included.

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

        runner = RoundRunner(comparison, generator, load, show)
        for part in range(parts):
            part_end = deadline - (parts - 1 - part) * budget_s / parts
            waiting = [name for name in comparison.remaining if name != settings.reference]
            while waiting:
                names = [settings.reference, *waiting]
                with paused_servers(names, configurations, folders, device, load.timeout_s) as group:
                    share = (len(group) - 1) / len(waiting)
                    waiting = waiting[len(group) - 1 :]
                    if waiting:
                        in_group = ", ".join(server.name for server in group)
                        print_wrapped(f"in groups, for want of memory: {in_group}")
                    if part == 0 and LONE_USER not in settings.users and budget_s >= LONE_USER_FROM_S:
                        runner.run_lone_user_rounds(group)
                    runner.run_rounds(group, settings.users, monotonic() + share * (part_end - monotonic()))
    return comparison
