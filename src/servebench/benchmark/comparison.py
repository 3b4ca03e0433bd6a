"""All configurations served at once and loaded in turn, in rounds: ratios hold on a machine that drifts.

A server that waits for its turn is stopped (SIGSTOP): a stock server polls while it idles, at the cost of
the others. No request is in flight when it is stopped.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic

import numpy as np
import numpy.typing as npt
import psutil

from servebench.errors import LoadError
from servebench.loadgen import LoadGenerator, LoadPlan, load_generator
from servebench.params import ComparisonSettings, LoadSettings, ServeSettings
from servebench.paths import ModelFolders
from servebench.serving.client import CONTENT_TYPES
from servebench.serving.launcher import RunningServer, running_server
from servebench.stats.comparison import ratio, ratios
from servebench.stats.rates import block_rates
from servebench.stats.records import OK, LoadRecord
from servebench.stats.stability import WINDOWS
from servebench.system.progress import bar, print_wrapped

WARMUP_S = 0.7
TURN_S = 2.5
SLOW_TURN_S = 8.0
ANSWERS_PER_USER = 3
"""A turn is measured for TURN_S and until each user has so many answers, but at most for SLOW_TURN_S."""
LONE_USER, LONE_USER_ROUNDS, LONE_USER_TURN_S = 1, 2, 1.0
"""Beside the loads that are compared: what a user alone gets, described and not ranked."""
DROP_AFTER_ROUNDS, DROP_BELOW = 4, 0.5
"""A configuration that lies wholly below half of the best leaves, so that time goes where it decides."""
RESTART_FROM_S = 600.0
"""From this budget on all servers are started anew halfway: what a process happens to be like is a part of
the spread."""
MEMORY_RESERVE = 1.2
"""Times what a worker of the servers so far has taken: so much must be free for each worker of the next."""


@dataclass(frozen=True)
class Turn:
    """One configuration's turn in one round.

    Attributes:
        rate_rps: good answers per second, None where there was none.
        latency_ms: of the good answers.
    """

    round: int
    users: int
    name: str
    rate_rps: float | None
    latency_ms: npt.NDArray[np.float64]


@dataclass
class Comparison:
    """The turns so far, and who is still measured.

    Attributes:
        left: configurations that are no longer measured, with the round after which they left.
    """

    reference: str
    names: Sequence[str]
    turns: list[Turn] = field(default_factory=list)
    left: dict[str, int] = field(default_factory=dict)

    @property
    def staying(self) -> list[str]:
        """Who takes part in the next round."""
        return [name for name in self.names if name not in self.left]

    def rates(self, users: int) -> dict[str, list[float | None]]:
        """By configuration, its rate in each round at one load."""
        rounds = sorted({turn.round for turn in self.turns if turn.users == users})
        found = {(turn.name, turn.round): turn.rate_rps for turn in self.turns if turn.users == users}
        return {name: [found.get((name, number)) for number in rounds] for name in self.names}

    def latencies(self) -> dict[tuple[int, str], list[npt.NDArray[np.float64]]]:
        """By users and configuration, the latencies of each of its turns, ms."""
        found: dict[tuple[int, str], list[npt.NDArray[np.float64]]] = {}
        for turn in self.turns:
            found.setdefault((turn.users, turn.name), []).append(turn.latency_ms)
        return found

    def standing(self, users: int) -> str:
        """How it stands, for the progress bar: the three fastest so far."""
        answered = {name: [rate for rate in rates if rate] for name, rates in self.rates(users).items()}
        means = {name: np.mean(rates) for name, rates in answered.items() if rates}
        fastest = sorted(means, key=lambda name: means[name], reverse=True)[:3]
        return "".join(f", {name} {means[name]:.0f}" for name in fastest)

    def drop_the_slow(self, users: int) -> None:
        """Let those leave whose interval against the best lies wholly below DROP_BELOW.

        Only those with DROP_AFTER_ROUNDS rounds: those that wait for the next group have had none.
        """
        rates = {name: own for name, own in self.rates(users).items() if any(own)}
        if self.reference not in rates:
            return
        rounds = len(rates[self.reference])
        had = Counter(turn.name for turn in self.turns if turn.users == users)
        found = ratios(rates, self.reference)
        best = max(found, key=lambda name: found[name].ratio)
        for name in self.staying:
            if name in (self.reference, best) or had[name] < DROP_AFTER_ROUNDS:
                continue
            highest = ratio(rates, name, best, self.reference).high if name in rates else 0.0
            if highest is not None and highest < DROP_BELOW:
                self.left[name] = rounds


class PausedServer:
    """A server that runs only while it has its turn."""

    def __init__(self, name: str, server: RunningServer) -> None:
        self.name = name
        self.pid = server.pid
        self._server = server
        self._stop()

    def take_turn(
        self, generator: LoadGenerator, load: LoadSettings, number: int, users: int, turn_s: float
    ) -> Turn:
        """Run for one load, and stop when no request is in flight.

        Raises:
            ServerError: it died; LoadError: the load generator did.
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
        )
        self._server.check()
        os.killpg(self._server.pid, signal.SIGCONT)
        try:
            record = generator.run(
                f"{self._server.url}/predict", plan, on_progress=lambda *_: self._server.check()
            )
        except LoadError:
            self._server.check()
            raise
        finally:
            self._stop()
        return turn_of(self.name, number, record)

    def _stop(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._server.pid, signal.SIGSTOP)


def turn_of(name: str, number: int, record: LoadRecord) -> Turn:
    """The rate and the latencies of one turn."""
    good = record.status == OK
    rate_rps = float(block_rates(record.start[good], record.end[good], *record.window).mean())
    reported = good & record.in_window
    latency_ms = 1000 * (record.end - record.start)[reported]
    return Turn(number, record.users, name, rate_rps if reported.any() else None, latency_ms)


@contextmanager
def paused_servers(
    names: Sequence[str],
    configurations: Mapping[str, ServeSettings],
    folders: ModelFolders,
    device: str,
    timeout_s: float,
    free_bytes: Callable[[], int] = lambda: psutil.virtual_memory().available,
) -> Iterator[list[PausedServer]]:
    """Servers of the first of ``names``, as many as fit into memory; each is stopped once it is ready.

    Raises:
        ServerError: one did not start.
    """
    with ExitStack() as stack:
        group: list[PausedServer] = []
        worker_bytes = 0.0
        for name in names:
            workers = configurations[name].workers_per_device
            before = free_bytes()
            if len(group) > 1 and before < MEMORY_RESERVE * worker_bytes * workers:
                break
            server = running_server(folders, configurations[name], device, timeout_s)
            group.append(PausedServer(name, stack.enter_context(server)))
            worker_bytes = max(worker_bytes, (before - free_bytes()) / workers)
        yield group


@dataclass
class RoundRunner:
    """Calls the rounds.

    Attributes:
        deadline: of the whole comparison, seconds of the monotonic clock.
        show: told which round runs, and how it stands.
    """

    comparison: Comparison
    generator: LoadGenerator
    load: LoadSettings
    deadline: float
    show: Callable[[str], None]

    def rounds_of_a_lone_user(self, group: Sequence[PausedServer]) -> None:
        """Two rounds at one user, unless that is a load that is compared."""
        for number in range(LONE_USER_ROUNDS):
            self._round(group if number % 2 else group[::-1], number, LONE_USER, LONE_USER_TURN_S)

    def rounds(self, group: Sequence[PausedServer], users: Sequence[int], until: float) -> None:
        """Rounds at each number of users, in a random order and then in its reverse, until the time is up."""
        random_order = random.Random(f"{self.load.seed}/{len(self.comparison.turns)}")
        order, longest_s = list(group), 0.0
        earlier = [turn.round for turn in self.comparison.turns if turn.users in users]
        first = number = 1 + max(earlier, default=-1)
        while number - first < 2 or monotonic() + longest_s < until:
            began = monotonic()
            staying = [one for one in order if one.name not in self.comparison.left]
            if (number - first) % 2 == 0:
                random_order.shuffle(staying)
            order = staying[::-1]
            for count in users:
                self._round(staying, number, count, TURN_S)
            if len(self.comparison.left) < len(self.comparison.names):
                self.comparison.drop_the_slow(users[0])
            longest_s = monotonic() - began
            number += 1

    def _round(self, order: Sequence[PausedServer], number: int, users: int, turn_s: float) -> None:
        for one in order:
            self.show(f"round {number + 1}, {users} users, {one.name}{self.comparison.standing(users)}")
            self.comparison.turns.append(one.take_turn(self.generator, self.load, number, users, turn_s))


def compare(
    configurations: Mapping[str, ServeSettings],
    folders: ModelFolders,
    device: str,
    bodies: Sequence[bytes],
    load: LoadSettings,
    settings: ComparisonSettings,
    budget_s: float,
) -> Comparison:
    """Measure ``configurations``, the reference among them, in turn until the budget is used up.

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

        runner = RoundRunner(comparison, generator, load, deadline, show)
        for part in range(parts):
            part_ends = deadline - (parts - 1 - part) * budget_s / parts
            waiting = [name for name in comparison.staying if name != settings.reference]
            while waiting:
                names = [settings.reference, *waiting]
                with paused_servers(names, configurations, folders, device, load.timeout_s) as group:
                    share = (len(group) - 1) / len(waiting)
                    waiting = waiting[len(group) - 1 :]
                    if waiting:
                        print_wrapped(
                            f"in groups, for want of memory: {', '.join(one.name for one in group)}"
                        )
                    if part == 0 and LONE_USER not in settings.users:
                        runner.rounds_of_a_lone_user(group)
                    runner.rounds(group, settings.users, monotonic() + share * (part_ends - monotonic()))
    return comparison
