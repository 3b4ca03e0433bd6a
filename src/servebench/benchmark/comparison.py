"""Comparison of all configurations in rounds: all are served at once, and one after another is loaded.

Rates of the same round are compared, so that a machine that drifts changes both. The servers that are not
loaded are stopped (SIGSTOP), without a request in flight: LitServe polls while it is idle, which would take
CPU time from the others.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic

from servebench.benchmark.paused_servers import SLOW_TURN_S, PausedServer, paused_servers
from servebench.benchmark.turns import Comparison
from servebench.loadgen import LoadGenerator, load_generator
from servebench.params import ComparisonSettings, LoadSettings, ServeSettings
from servebench.paths import ModelFolders
from servebench.serving.client import CONTENT_TYPES
from servebench.system.progress import bar, print_wrapped

TURN_S = 1.0
"""Short turns make more rounds, with less time between the configurations that are compared."""
FAR_SHARE = 0.3
"""Of the time, for all together that are far behind: their turns last longest, as the first answers do. They
miss turns until they have had less. Measurements of TURN_S are enough to know that they are far behind."""
FEWEST_ROUNDS = 3
"""However short the time: two rounds give no useful interval."""
LONE_USER, LONE_USER_ROUNDS, LONE_USER_FROM_S = 1, 2, 200.0
"""From `comparison.seconds` of LONE_USER_FROM_S on, rounds of a single user come first, without ranks."""
RESTART_FROM_S = 600.0
"""From this budget on all servers are restarted halfway, as processes of the same configuration differ."""


@dataclass
class RoundRunner:
    """Runs the rounds of servers that run at once.

    Attributes:
        show: called at each turn with a text for the progress bar.
        turns_s: how long the turns of each configuration have taken, seconds.
    """

    comparison: Comparison
    generator: LoadGenerator
    load: LoadSettings
    show: Callable[[str], None]
    turns_s: dict[str, float] = field(default_factory=dict)

    def run_lone_user_rounds(self, group: Sequence[PausedServer]) -> None:
        """Run LONE_USER_ROUNDS with a single user."""
        first = self._next_round([LONE_USER])
        for number in range(first, first + LONE_USER_ROUNDS):
            self._run_round(group if number % 2 else group[::-1], number, LONE_USER, {})

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
                far_behind = self.comparison.far_behind(count)
                own = {server.name: far_behind[server.name] for server in order if server.name in far_behind}
                self._run_round(order, number, count, own)
            self.comparison.drop_slow(users)
            last_round_s = monotonic() - started
            number += 1

    def _next_round(self, users: Sequence[int]) -> int:
        """Its number; each group of servers has rounds of its own."""
        return 1 + max((turn.round for turn in self.comparison.turns if turn.users in users), default=-1)

    def _run_round(
        self, order: Sequence[PausedServer], number: int, users: int, far_behind: Mapping[str, int]
    ) -> None:
        for server in order:
            name = server.name
            if name in far_behind and not self._has_time(name, far_behind):
                continue
            fastest = self.comparison.fastest_so_far(users)
            self.show(f"round {number + 1}, {users} users, now {name}{fastest}")
            longest_s = TURN_S if name in far_behind else SLOW_TURN_S
            began = monotonic()
            turn = server.take_turn(self.generator, self.load, number, users, TURN_S, longest_s)
            self.turns_s[name] = self.turns_s.get(name, 0.0) + monotonic() - began
            self.comparison.turns.append(turn)

    def _has_time(self, name: str, far_behind: Mapping[str, int]) -> bool:
        """Whether one that is far behind takes a turn: none had fewer, and their time is not used up."""
        spent_s = sum(self.turns_s.get(other, 0.0) for other in far_behind)
        fewest = far_behind[name] == min(far_behind.values())
        return fewest and spent_s < FAR_SHARE * sum(self.turns_s.values())


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
                    runner = RoundRunner(comparison, generator, load, show)
                    if part == 0 and LONE_USER not in settings.users and settings.seconds >= LONE_USER_FROM_S:
                        runner.run_lone_user_rounds(group)
                    runner.run_rounds(group, settings.users, monotonic() + share * (part_end - monotonic()))
    return comparison
