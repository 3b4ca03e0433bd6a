"""Schedules of a comparison in rounds: who is loaded when, by what each turn costs and has yielded.

Rates of the same round are compared, so that a machine that drifts changes all of them. Of two successive
rounds the first has a random order, the second its reverse, so that a steady drift cancels.

The fast take a turn in each round, the slow in some, spread evenly over as many rounds as the time allows by
what turns have cost so far. Nobody leaves because of what was found, and none gets too few turns for an
interval, however long they take.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from litmeter.errors import LitmeterError
from litmeter.load import LoadPlan
from litmeter.measure.rows import TurnRow
from litmeter.measure.turn import Sample, Schedule, Turn, Work, WorkKind, in_process, measure, serve
from litmeter.say.tables import significant
from litmeter.stats.rates import samples_needed
from litmeter.stats.records import WINDOWS

FEWEST_TURNS, SHORT_TURNS, MOST_TURNS = 7, 3, 20
"""Turns that each configuration has at least, those far behind exactly; at most for the sake of ANSWERS."""
ANSWERS = samples_needed(95)
"""Good answers that each configuration has at least, for its p95."""
SLOW_BELOW, SLOW_TO_REFERENCE, SHORT_TURNS_BELOW = 0.1, 0.5, 0.01
"""Slow is whose rate is below SLOW_BELOW of the best's and SLOW_TO_REFERENCE of the reference's; below
SHORT_TURNS_BELOW of the best's, three short turns say enough."""
SLOW_SHARE = 1 / 3
"""Share of the time for the slow ones' turns beyond the fewest."""
LATEST = 2.0
"""Times the budget: on a machine that is so busy, fewer turns and answers have to do."""
SHORT_S, SHORT_SHARE = 80.0, 3 / 7
"""A comparison that is shorter is a first look: a share of these turns and answers is enough."""
FEWEST_ROUNDS = 12
"""Rounds of a comparison head to head, however short the time."""

BLOCK_S, BRIEF_TURN_S = 30.0, 0.3
"""Of those that are restarted: seconds, or more, from one start to the next, as a server's rate differs by 1%
from start to start; and a turn's measurement at least. On a machine whose speed changes by 1.4 every 20 s,
1.10 times slower is found within three minutes in 93% of simulated checks, with turns of a second in 78%."""

TURN_S, SLOW_TURN_S, FIRST_TURN_S = 1.0, 8.0, 4.0
"""A turn's measurement at least (a short one no more), at most, and at most in the first turn,
whose cost is not known yet. Short turns make more rounds, with less time between those that are compared."""
WARMUP_S = 0.15
"""Once every user has had an answer: from then on rates keep their level."""
ANSWERS_PER_USER = 3
"""A turn's measurement lasts until so many answers per user, and its share of ANSWERS, within its bounds."""
FIRST_ANSWERS_S = 1.0
"""A server that takes longer for its users' first answers is slow: its whole turn is measured. It would take
twice as long with the load kept up before and after the measurement."""

WORK_S = 0.3
"""In-process: of one measurement, and of each of two probes before the fastest batch size is chosen."""
PROBES = -1
"""The round of these probes, which are beside no served turn."""
CROWDS: tuple[WorkKind, ...] = ("crowded", "one_thread")
"""Measured of those that have more workers than the cores can run."""
LONGEST_BATCH_S = 1.0
"""Larger batches are not tried: a slow model would take minutes for them."""
START_SHARE = 1 / 3
"""Share of the time left, at most, for the start of processes."""
SLOWLY_EVERY, OFTEN_EVERY = 3, 2
"""In-process rates are measured beside every third turn, every second of those with few turns, each short."""


def comparison(
    names: Sequence[str],
    reference: str,
    users: int,
    seconds: float,
    seed: int,
    timeout_s: float,
    largest_batch: Mapping[str, int],
    crowded: Collection[str] = (),
) -> Schedule[None]:
    """Compare configurations, served and in-process beside it, within a budget.

    Where memory does not hold all, they are compared in groups, the reference in each; raise LitmeterError
    where it does not hold two.

    Args:
        seconds: for all, starts included; exceeded only for the fewest turns and answers of each.
        largest_batch: that each can form at this number of users; those that it lacks do not run in-process.
        crowded: names of those with more workers than the cores can run.
    """
    rounds = _Rounds(reference, users, seed, timeout_s, largest_batch, crowded)
    rounds.share = 1.0 if seconds >= SHORT_S else SHORT_SHARE
    waiting = [name for name in names if name != reference]
    while waiting or not rounds.number:
        began_s = rounds.now_s
        yield from rounds.start((reference, *waiting))
        others = len(rounds.group) - 1
        if waiting and others < 1:
            raise LitmeterError(f"memory does not hold {reference} and {waiting[0]} at once")
        share = others / len(waiting) if waiting else 1.0
        waiting = waiting[others:]
        until_s = rounds.now_s + share * (seconds - rounds.now_s)
        yield from rounds.run(until_s, rounds.now_s - began_s)


def head_to_head(
    names: Sequence[str], users: int, seconds: float, seed: int, timeout_s: float
) -> Schedule[None]:
    """Compare subjects, each in every round, for a time that nothing found shortens or extends.

    Args:
        seconds: for all, starts included; exceeded only for FEWEST_ROUNDS.

    Raises:
        LitmeterError: memory does not hold all at once.
    """
    rounds = _Rounds(names[0], users, seed, timeout_s, {})
    rounds.fewest, rounds.budget_s = FEWEST_ROUNDS, seconds
    yield from rounds.start(names)
    if missing := set(names) - set(rounds.group):
        raise LitmeterError(f"memory does not hold all at once: no room for {', '.join(sorted(missing))}")
    while rounds.number < FEWEST_ROUNDS or rounds.now_s + sum(rounds.cost_s.values()) < seconds:
        yield from rounds.run_round(rounds.shuffled(names))


def restarted(
    names: Sequence[str], users: int, seconds: float, seed: int, timeout_s: float
) -> Schedule[dict[str, list[float]]]:
    """Compare two subjects that are started anew an even number of times, each first as often as the other.

    Whoever starts first is a little faster, and turns are short, as a machine that changes its speed between
    two that are compared changes their ratio. It ends early where one answers nothing.

    Args:
        seconds: for all, starts included; exceeded only for FEWEST_ROUNDS.

    Returns:
        how long each start took, seconds.

    Raises:
        LitmeterError: memory does not hold both at once.
    """
    rounds = _Rounds(names[0], users, seed, timeout_s, {}, turn_s=BRIEF_TURN_S)
    rounds.fewest, rounds.budget_s = FEWEST_ROUNDS, seconds
    starts: dict[str, list[float]] = defaultdict(list)
    block, blocks = 0, 2
    while block < blocks:
        yield from serve(())
        began_s = rounds.now_s
        ready_s = yield from rounds.start(names[::-1] if block % 2 else names)
        if missing := set(names) - set(rounds.group):
            raise LitmeterError(f"memory does not hold both at once: no room for {missing.pop()}")
        for name, own_s in ready_s.items():
            starts[name].append(own_s or 0.0)
        if not block:  # starts take half of the time at most
            blocks = 2 * max(1, int(seconds / max(BLOCK_S, 2 * rounds.now_s) / 2))
        rounds.starts_s = (blocks - block - 1) * (rounds.now_s - began_s)
        fewest = math.ceil(FEWEST_ROUNDS * (block + 1) / blocks)
        until_s = seconds * (block + 1) / blocks
        while rounds.number < fewest or rounds.now_s + sum(rounds.cost_s.values()) < until_s:
            yield from rounds.run_round(rounds.shuffled(names))
            if not all(own[-1].answers for own in rounds.rows.values()):
                return starts
        block += 1
    return starts


def turn_plan(users: int, timeout_s: float, seed: int, number: int) -> LoadPlan:
    """Plan a turn's load; each round, by its number, has an order of its own."""
    return LoadPlan(
        users=users,
        requests=ANSWERS_PER_USER * users,
        warmup_s=WARMUP_S,
        min_s=TURN_S,
        max_s=SLOW_TURN_S,
        max_windows=WINDOWS,
        timeout_s=timeout_s,
        seed=seed,
        repeat=number,
        give_up_s=FIRST_ANSWERS_S,
    )


@dataclass
class _Rounds:
    """What rounds so far have yielded, and what the next one asks for."""

    reference: str
    users: int
    seed: int
    timeout_s: float
    largest_batch: Mapping[str, int]
    crowded: Collection[str] = ()
    turn_s: float = TURN_S

    def __post_init__(self) -> None:
        self.share = 1.0  # of the fewest turns and answers, that each has to have
        # Where all take each turn: the fewest rounds, the time for all, and that of later starts.
        self.fewest, self.budget_s, self.starts_s = 0, 0.0, 0.0
        self.number, self.planned = 0, 0  # of the next round; rounds by the time's end
        self.now_s = 0.0  # when the last turn ended, since the log's begin
        self.rows: dict[str, list[TurnRow]] = defaultdict(list)  # of served turns
        self.cost_s: dict[str, float] = {}  # from the begin of the last served turn to the next turn's
        self.work_s: dict[str, float] = defaultdict(float)  # of the last measurement in-process
        self.batch_size: dict[str, int] = {}  # the fastest in-process
        self.group: list[str] = []  # who is served
        self.ready: set[str] = set()  # those of them whose in-process subject runs
        self.due: dict[str, float] = defaultdict(float)  # share of a turn that a slow one has waited for
        self._order: list[str] = []

    def start(self, names: Sequence[str]) -> Schedule[Mapping[str, float | None]]:
        """Have subjects served, as a new group of those that memory holds; return what starts took."""
        serving = yield from serve(names)
        self.now_s = serving.at_s
        self.group = [name for name in names if name in serving.names]
        self.ready = set()
        return serving.ready_s

    def run(self, until_s: float, starts_s: float) -> Schedule[None]:
        """Run rounds of the group; after the first, in-process beside them where there is time to start it.

        As much is allowed for that as the group's servers took, ``starts_s``.
        """
        yield from self.run_round(self.shuffled(self.group))
        if starts_s < START_SHARE * (until_s - self.now_s):
            yield from self._start_beside()
        while taking := self._taking_turns(until_s):
            yield from self.run_round(self._sequence(taking))

    def _start_beside(self) -> Schedule[None]:
        """Have the group in-process as well, as far as memory holds it, and find the batch sizes."""
        key_of = {name: in_process(name) for name in self.group if name in self.largest_batch}
        serving = yield from serve((*self.group, *key_of.values()))
        self.now_s = serving.at_s
        self.ready = {name for name, key in key_of.items() if key in serving.names}
        for name in [name for name in self.group if name in self.ready - self.batch_size.keys()]:
            self.batch_size[name] = yield from self._fastest_size(name)
            if name in self.crowded:
                for kind in CROWDS:
                    work = Work(kind, self.batch_size[name], WORK_S)
                    yield from self._measure(in_process(name), work, PROBES)

    def run_round(self, order: Sequence[str]) -> Schedule[None]:
        """Load each of ``order`` once, some of them in-process before or after it."""
        fastest = sorted(self.rows, key=self._rate, reverse=True)[:3]
        best = ", ".join(f"{name} {significant(self._rate(name))}" for name in fastest)
        note = f"round {self.number + 1}" + (f"; fastest so far: {best} req/s" if best else "")
        for name in order:
            had, every = len(self.rows[name]), self._every(name)
            beside = name in self.ready and had % every == 1 % every
            before = (had - 1) // every % 2 == 0
            if beside and before:
                yield from self._measure_work(name, ("model", "pipeline"))
            began_s = self.now_s
            sample = yield from self._measure(name, self._plan(name), self.number, note)
            self.rows[name].append(sample.row)
            self.cost_s[name] = self.now_s - began_s
            if beside and not before:
                yield from self._measure_work(name, ("pipeline", "model"))
        self.number += 1

    def shuffled(self, names: Sequence[str]) -> list[str]:
        """Put some of the group in this round's order: a random one, or the reverse of the round before."""
        if self.number % 2 == 0 or set(self._order) != set(self.group):
            self._order = sorted(self.group)
            random.Random(f"{self.seed}/{self.number}").shuffle(self._order)
        ordered = [name for name in self._order if name in names]
        return ordered[::-1] if self.number % 2 else ordered

    def _sequence(self, taking: Sequence[str]) -> list[str]:
        """Put the fast next to each other, amid the slow, whose long turns would keep them apart."""
        order = self.shuffled(taking)
        slow = [name for name in order if self._is_slow(name)]
        half = (len(slow) + self.number % 2) // 2
        return [*slow[:half], *(name for name in order if name not in slow), *slow[half:]]

    def _taking_turns(self, until_s: float) -> list[str]:
        """Choose who takes a turn in the next round; nobody where time is up and all have had enough."""
        if self.now_s > LATEST * max(until_s, SHORT_S):
            return []
        needed = {name: self._turns_needed(name) for name in self.group}
        slow = [name for name in self.group if self._is_slow(name)]
        fast = [name for name in self.group if name not in slow]
        planned_s = sum(needed[name] * self._turn_s(name) for name in slow)
        rounds_left = max((until_s - self.now_s - planned_s) / self._round_s(fast), *needed.values())
        if rounds_left < 1:
            return []
        self.planned = self.number + int(rounds_left)
        had_s = {name: sum(row.seconds for row in self.rows[name]) for name in self.group}
        spare = sum(had_s[name] for name in slow) < SLOW_SHARE * sum(had_s.values())
        for name in slow:
            more = spare and not self._has_short_turns(name)
            self.due[name] = 1.0 if more else self.due[name] + needed[name] / rounds_left
        taking = [name for name in slow if self.due[name] > 0.999]
        if self.now_s + self._round_s([*fast, *taking]) > until_s:
            taking = [name for name in taking if needed[name]]
        for name in taking:
            self.due[name] -= 1
        return [*fast, *taking]

    def _turns_needed(self, name: str) -> int:
        """Turns that it lacks."""
        turns = len(self.rows[name])
        if self._has_short_turns(name):
            return max(0, math.ceil(SHORT_TURNS * self.share) - turns)
        lacking, in_turn = ANSWERS * self.share - self._answers(name), SLOW_TURN_S * self._rate(name)
        for_answers = min(math.ceil(lacking / in_turn), MOST_TURNS - turns) if self._answers(name) else 0
        return max(0, math.ceil(FEWEST_TURNS * self.share) - turns, for_answers)

    def _answers(self, name: str) -> int:
        return sum(row.answers for row in self.rows[name])

    def _rate(self, name: str) -> float:
        """Geometric mean of its rates, or of what these were below; 0 where there is none."""
        rates = [row.highest_rps for row in self.rows[name]]
        return math.exp(sum(map(math.log, rates)) / len(rates)) if rates and all(rates) else 0.0

    def _is_slow(self, name: str, below: float = SLOW_BELOW) -> bool:
        best = max(map(self._rate, self.rows))
        return self._rate(name) < min(below * best, SLOW_TO_REFERENCE * self._rate(self.reference))

    def _has_short_turns(self, name: str) -> bool:
        return self._is_slow(name, SHORT_TURNS_BELOW)

    def _every(self, name: str) -> int:
        """Turns of a configuration from one that has in-process rates beside it to the next."""
        if self._has_short_turns(name):
            return 1
        few = self._is_slow(name) or self.planned < FEWEST_ROUNDS
        return OFTEN_EVERY if few else SLOWLY_EVERY

    def _turn_s(self, name: str) -> float:
        """Seconds of its next turn, with its part of what is measured in-process."""
        return self.cost_s[name] + self.work_s[name] / self._every(name)

    def _round_s(self, names: Sequence[str]) -> float:
        return sum(map(self._turn_s, names))

    def _plan(self, name: str) -> LoadPlan:
        """Plan its next turn: that of a slow one makes its share of ANSWERS, as they take long."""
        requests, most_s = ANSWERS_PER_USER * self.users, SLOW_TURN_S
        rows = self.rows[name]
        if not rows:
            most_s = FIRST_TURN_S
        elif self._has_short_turns(name):
            most_s = TURN_S
        elif self._is_slow(name):
            turns_left = max(1, FEWEST_TURNS - len(rows))
            requests = max(2 * self.users, math.ceil((ANSWERS - self._answers(name)) / turns_left))
        requests = max(requests, math.ceil(ANSWERS / FEWEST_TURNS))
        plan = turn_plan(self.users, self.timeout_s, self.seed, self.number)
        return replace(plan, requests=requests, min_s=self.turn_s, max_s=most_s)

    def _fastest_size(self, name: str) -> Schedule[int]:
        """Find the batch size at which its pipeline is fastest: 1, 2, 4 and so on, and the largest."""
        largest = self.largest_batch[name]
        rates: dict[int, float] = {}
        if largest == 1:
            return 1
        for size in sorted({*(2**k for k in range(largest.bit_length())), largest}):
            best = max(rates.values(), default=0.0)
            if rates and size > LONGEST_BATCH_S * best:
                break
            began_s = self.now_s
            probes: list[float] = []
            while not probes or (len(probes) < 2 and self.now_s - began_s < 2 * WORK_S):
                sample = yield from self._measure(in_process(name), Work("pipeline", size, WORK_S), PROBES)
                probes.append(sample.row.highest_rps)
            rates[size] = sum(probes) / len(probes)
        return max(rates, key=lambda size: rates[size])

    def _end_s(self) -> float | None:
        """When the fewest rounds will have been made, by what turns cost; None where there is no fewest."""
        if not self.fewest:
            return None
        turns = self.fewest * len(self.group) - sum(map(len, self.rows.values()))
        turn_s = sum(self.cost_s.values()) / max(1, len(self.cost_s))
        return max(self.budget_s, self.now_s + turns * turn_s + self.starts_s)

    def _measure_work(self, name: str, kinds: Sequence[WorkKind]) -> Schedule[None]:
        began_s = self.now_s
        for kind in kinds:
            work = Work(kind, self.batch_size[name], WORK_S)
            yield from self._measure(in_process(name), work, self.number)
        self.work_s[name] = self.now_s - began_s

    def _measure(self, subject: str, load: LoadPlan | Work, number: int, note: str = "") -> Schedule[Sample]:
        sample = yield from measure(Turn(subject, load, number, note=note, end_s=self._end_s()))
        self.now_s = sample.ended_s
        return sample
