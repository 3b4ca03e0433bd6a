"""Comparison of all configurations in rounds: all are served at once, and one after another is loaded.

Rates of the same round are compared, so that a machine that drifts changes both. The servers that are not
loaded are stopped (SIGSTOP), without a request in flight: LitServe polls while it is idle, which would take
CPU time from the others.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from time import monotonic

from litmeter.benchmark.paused_servers import PausedServer, paused_servers
from litmeter.benchmark.pipelines import Pipelines
from litmeter.benchmark.turns import Comparison
from litmeter.loadgen import LoadGenerator, load_generator
from litmeter.params import ComparisonSettings, LoadSettings, ServeSettings
from litmeter.paths import ModelFolders
from litmeter.serving.client import CONTENT_TYPES
from litmeter.system.progress import bar, print_wrapped
from litmeter.system.tables import pluralise

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


StartPipelines = Callable[
    [Sequence[PausedServer], Sequence[PausedServer], Sequence[int]], AbstractContextManager[Pipelines]
]
"""Runs the pipelines of some of all servers in-process; see ``pipelines.running_pipelines``."""


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
