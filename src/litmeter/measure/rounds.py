"""Schedules that compare configurations in rounds.

A drift of the machine changes all rates of a round alike, so rates are compared within rounds. Every second
round has the reverse order of the round before, so a steady drift cancels.

Fast configurations take a turn in every round; slow ones in some rounds, spread evenly over the time. No
result makes a configuration leave, and each gets enough turns for an interval, however long they take.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from litmeter.errors import LitmeterError
from litmeter.load import LoadPlan
from litmeter.measure.rows import TurnRow
from litmeter.measure.turn import (
    Sample,
    Schedule,
    Turn,
    Work,
    WorkKind,
    attempt,
    configuration_of,
    in_process,
    make_ready,
)
from litmeter.say.progress import print_wrapped
from litmeter.say.tables import significant
from litmeter.stats.rates import samples_needed
from litmeter.stats.records import WINDOWS

SHORT_TURNS, MOST_TURNS = 3, 20
"""Exact turns of hopeless configurations; most turns spent to collect a configuration's answers."""
SLOW_BELOW, SLOW_TO_REFERENCE, SHORT_TURNS_BELOW = 0.1, 0.5, 0.01
"""A configuration is slow below SLOW_BELOW of the best rate and SLOW_TO_REFERENCE of the reference's; below
SHORT_TURNS_BELOW of the best rate it is hopeless: SHORT_TURNS short turns say enough."""
SLOW_SHARE = 1 / 3
"""Share of the time that slow configurations may take beyond their minimum turns."""
LATEST = 2.0
"""Multiple of the budget at which a comparison ends in any case, on a busy machine with fewer turns."""
SHORT_S, SHORT_SHARE = 80.0, 3 / 7
"""A shorter comparison is a first look, with this share of the minimum turns, answers and probes."""
ANSWERS_PER_USER = 3
"""A turn's measurement collects so many answers per user, and its share of a configuration's minimum."""
FIRST_ANSWERS_S = 1.0
"""If the users' first answers take longer, the whole turn is measured: keeping up the load before and after a
measurement would double the turn of such a slow server."""
PROBES = -1
"""Round number of probes of batch sizes, which stand beside no served turn."""
LONGEST_BATCH_S, LONGEST_STREAMS_S = 1.0, 6.0
"""Batches that would take longer are not probed; where answers stream, the second."""
START_SHARE, PROBE_SHARE = 1 / 3, 1 / 3
"""Largest shares of the time left that starting in-process subjects may take, and then probing them."""
SLOWLY_EVERY, OFTEN_EVERY = 3, 2
"""In-process rates are measured beside every third turn of a configuration, every second turn if it has few
turns, and every turn if it has fewer than the minimum or short ones."""


@dataclass(frozen=True)
class Pace:
    """How long turns are, and how many there are at least.

    Attributes:
        turn_s: least measurement of a turn, and the whole of a short turn. Short turns make more rounds, with
            less time between the turns that are compared.
        first_turn_s: most of the first turn, whose cost is not known yet.
        slow_turn_s: most of any other turn.
        warmup_s: load before it, after every user has had an answer; from then on rates keep their level.
        work_s: a measurement in-process, and a probe of a batch size.
        fewest_turns: of a configuration.
        fewest_rounds: where all subjects take each.
        answers: good ones of a configuration at least, for its p95.
        block_s: least time from one start to the next of subjects that are restarted.
    """

    turn_s: float = 1.0
    first_turn_s: float = 4.0
    slow_turn_s: float = 8.0
    warmup_s: float = 0.15
    work_s: float = 0.3
    fewest_turns: int = 7
    fewest_rounds: int = 12
    answers: int = samples_needed(95)
    block_s: float = 30.0


PACE, RESTARTED_PACE = Pace(), Pace(turn_s=0.3)
"""A server's rate differs by 1% from start to start. On a machine whose speed changes by 1.4 every 20 s, 93%
of simulated checks at RESTARTED_PACE find a server 1.10 times slower within three minutes; with turns of a
second, 78%."""


def comparison(
    names: Sequence[str],
    reference: str,
    users: int,
    seconds: float,
    seed: int,
    timeout_s: float,
    largest_batch: Mapping[str, int],
    probed: Mapping[str, Sequence[Work]] = MappingProxyType({}),
    pace: Pace = PACE,
) -> Schedule[None]:
    """Compare configurations, served and in-process, within a budget.

    If memory does not hold all configurations, they are compared in groups, with the reference in each group.

    Args:
        seconds: budget, starts included; only minimum turns and answers exceed it.
        largest_batch: by configuration, largest batch that the users can form; configurations without one do
            not run in-process.
        probed: by configuration, what else is run in-process, once, in batches of the fastest size at least.

    Raises:
        LitmeterError: memory does not hold two servers.
    """
    rounds = _Rounds(reference, users, seed, timeout_s, pace, largest_batch, probed)
    rounds.budget_s, rounds.share = seconds, 1.0 if seconds >= SHORT_S else SHORT_SHARE
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
    names: Sequence[str], users: int, seconds: float, seed: int, timeout_s: float, pace: Pace = PACE
) -> Schedule[None]:
    """Compare subjects, each in every round. No result shortens or extends the time.

    Args:
        seconds: budget, starts included; only the fewest rounds exceed it.

    Raises:
        LitmeterError: memory does not hold all subjects at once.
    """
    rounds = _Rounds(names[0], users, seed, timeout_s, pace)
    rounds.fewest, rounds.budget_s = pace.fewest_rounds, seconds
    yield from rounds.start(names)
    if missing := set(names) - set(rounds.group):
        raise LitmeterError(f"memory does not hold all at once: no room for {', '.join(sorted(missing))}")
    while rounds.number < pace.fewest_rounds or rounds.now_s + sum(rounds.cost_s.values()) < seconds:
        yield from rounds.run_round(rounds.shuffled(names))
        rounds.warn(seconds, pace.fewest_rounds)


def restarted(
    names: Sequence[str], users: int, seconds: float, seed: int, timeout_s: float, pace: Pace = RESTARTED_PACE
) -> Schedule[tuple[dict[str, list[float]], list[int]]]:
    """Compare two subjects that are restarted an even number of times.

    The subject that starts first is a little faster, so each starts first equally often. Turns are short: a
    change of the machine's speed between two turns changes their ratio. The comparison ends early if one
    answers nothing.

    Args:
        seconds: budget, starts included; only the fewest rounds exceed it.

    Returns:
        Seconds that each start took, by subject; and the first round after each start.

    Raises:
        LitmeterError: memory does not hold both subjects at once.
    """
    rounds = _Rounds(names[0], users, seed, timeout_s, pace)
    rounds.fewest, rounds.budget_s = pace.fewest_rounds, seconds
    starts: dict[str, list[float]] = defaultdict(list)
    first_rounds: list[int] = []
    block, blocks = 0, 2
    while block < blocks:
        yield from make_ready(())
        began_s = rounds.now_s
        ready_s = yield from rounds.start(names[::-1] if block % 2 else names)
        if missing := set(names) - set(rounds.group):
            raise LitmeterError(f"memory does not hold both at once: no room for {missing.pop()}")
        for name, own_s in ready_s.items():
            starts[name].append(own_s or 0.0)
        if not block:  # starts take half of the time at most
            blocks = 2 * max(1, int(seconds / max(pace.block_s, 2 * rounds.now_s) / 2))
        first_rounds.append(rounds.number)
        rounds.starts_s = (blocks - block - 1) * (rounds.now_s - began_s)
        fewest = math.ceil(pace.fewest_rounds * (block + 1) / blocks)
        until_s = seconds * (block + 1) / blocks
        while rounds.number < fewest or rounds.now_s + sum(rounds.cost_s.values()) < until_s:
            yield from rounds.run_round(rounds.shuffled(names))
            rounds.warn(seconds, pace.fewest_rounds)
            if not all(own[-1].answers for own in rounds.rows.values()):
                return starts, first_rounds
        block += 1
    return starts, first_rounds


def _latest_s(until_s: float) -> float:
    """When rounds that should end at ``until_s`` end in any case."""
    return LATEST * max(until_s, SHORT_S)


def turn_plan(users: int, timeout_s: float, seed: int, number: int, pace: Pace = PACE) -> LoadPlan:
    """The load of a turn; the order of bodies differs from round to round (``number``)."""
    return LoadPlan(
        users=users,
        requests=ANSWERS_PER_USER * users,
        warmup_s=pace.warmup_s,
        min_s=pace.turn_s,
        max_s=pace.slow_turn_s,
        max_windows=WINDOWS,
        timeout_s=timeout_s,
        seed=seed,
        repeat=number,
        give_up_s=FIRST_ANSWERS_S,
    )


@dataclass
class _Rounds:
    """Results of the rounds so far, and the plan of the next round."""

    reference: str
    users: int
    seed: int
    timeout_s: float
    pace: Pace
    largest_batch: Mapping[str, int] = field(default_factory=dict)
    probed: Mapping[str, Sequence[Work]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.share = 1.0  # of the minimum turns and answers
        # If all subjects take every round: minimum rounds, budget, and time that later starts will take.
        self.fewest, self.budget_s, self.starts_s = 0, 0.0, 0.0
        self.number, self.planned = 0, 0  # number of the next round; rounds expected in all
        self.ends_s: float | None = None  # expected end where not all take every round, if turns are known
        self.now_s = 0.0  # when the last turn ended, since the log's begin
        self.rows: dict[str, list[TurnRow]] = defaultdict(list)  # served turns, by configuration
        self.cost_s: dict[str, float] = {}  # seconds of the last served turn, pauses included
        self.work_s: dict[str, float] = defaultdict(float)  # seconds of the last measurement in-process
        self.batch_size: dict[str, int] = {}  # the fastest one in-process
        self.group: list[str] = []  # configurations that are served now
        self.ready: set[str] = set()  # configurations of the group whose in-process subject runs
        self.due: dict[str, float] = defaultdict(float)  # share of a turn that a slow configuration waits for
        self._order: list[str] = []

    def start(self, names: Sequence[str]) -> Schedule[Mapping[str, float | None]]:
        """Serve a new group: as many of ``names`` as memory holds; return the seconds of each start."""
        ready = yield from make_ready(names)
        self.now_s = ready.at_s
        self.group = [name for name in names if name in ready.names]
        self.ready = set()
        return ready.ready_s

    def run(self, until_s: float, starts_s: float) -> Schedule[None]:
        """Run rounds of the group until ``until_s``.

        After the first round the in-process subjects start, if there is time, that of minimum turns
        included: they are expected to take as long as the group's servers did (``starts_s``).
        """
        yield from self.run_round(self.shuffled(self.group))
        self.warn(until_s, math.ceil(self.pace.fewest_turns * self.share))
        answering = [name for name in self.group if self._answers(name)]
        fewest_s = sum(self._turns_needed(name) * self.cost_s[name] for name in answering)
        end_s = max(until_s, min(self.now_s + fewest_s, _latest_s(until_s)))
        if starts_s < START_SHARE * (end_s - self.now_s):
            yield from self._start_beside(end_s)
        while taking := self._taking_turns(until_s):
            yield from self.run_round(self._sequence(taking))

    def _start_beside(self, end_s: float) -> Schedule[None]:
        """Start in-process subjects of the group, as far as memory holds them, and find their batch sizes.

        Each may take an equal share of what others have left of PROBE_SHARE of the time until ``end_s``.
        """
        key_of = {name: in_process(name) for name in self.group if name in self.largest_batch}
        ready = yield from make_ready((*self.group, *key_of.values()))
        self.now_s = ready.at_s
        self.ready = {name for name, key in key_of.items() if key in ready.names}
        until_s = self.now_s + PROBE_SHARE * (end_s - self.now_s)
        new = [name for name in self.group if name in self.ready - self.batch_size.keys()]
        for place, name in enumerate(new):
            own_s = self.now_s + (until_s - self.now_s) / (len(new) - place)
            rates = yield from self._rates_by_size(name, own_s)
            if not rates:
                self.ready.discard(name)
                continue
            self.batch_size[name] = size = max(rates, key=rates.__getitem__)
            for work in self.probed.get(name, ()):
                work = replace(work, batch_size=max(size, work.batch_size), seconds=self.pace.work_s)
                takes_s = work.batch_size / rates[size]
                if name in self.ready and self.now_s + max(self.pace.work_s, takes_s) < until_s:
                    yield from self._measure(in_process(name), work, PROBES)

    def run_round(self, order: Sequence[str]) -> Schedule[None]:
        """Load each configuration of ``order`` once, some also in-process before or after that turn."""
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
            assert sample is not None  # a server that fails ends the comparison
            self.rows[name].append(sample.row)
            self.cost_s[name] = self.now_s - began_s
            if beside and not before:
                yield from self._measure_work(name, ("pipeline", "model"))
        self.number += 1

    def warn(self, until_s: float, needed: int) -> None:
        """After the first round, say how many fit into the time, if these are fewer than ``needed``."""
        fit = 1 + int(max(0.0, until_s - self.now_s) / sum(self.cost_s.values()))
        if self.number == 1 and fit < needed:
            slowest = max(self.cost_s, key=self.cost_s.__getitem__)
            streams = any(row.stream for own in self.rows.values() for row in own)
            shorter = f"{'shorter answers (max_tokens) or ' if streams else ''}fewer users"
            print_wrapped(
                f"a turn of {slowest} takes {self.cost_s[slowest]:.0f} s: about {fit} of {needed} rounds fit "
                f"into {until_s:.0f} s; {shorter} make shorter turns"
            )

    def shuffled(self, names: Sequence[str]) -> list[str]:
        """Sort ``names`` into this round's order: random, or the reverse of the last round's."""
        if self.number % 2 == 0 or set(self._order) != set(self.group):
            self._order = sorted(self.group)
            random.Random(f"{self.seed}/{self.number}").shuffle(self._order)
        ordered = [name for name in self._order if name in names]
        return ordered[::-1] if self.number % 2 else ordered

    def _sequence(self, taking: Sequence[str]) -> list[str]:
        """Order a round: slow configurations first and last, as their long turns would separate the fast."""
        order = self.shuffled(taking)
        slow = [name for name in order if self._is_slow(name)]
        half = (len(slow) + self.number % 2) // 2
        return [*slow[:half], *(name for name in order if name not in slow), *slow[half:]]

    def _taking_turns(self, until_s: float) -> list[str]:
        """Choose the configurations of the next round; none once time is up and each has its minimum."""
        left_s = _latest_s(until_s) - self.now_s
        if left_s < 0:
            return []
        needed = {name: self._turns_needed(name) for name in self.group}
        slow = [name for name in self.group if self._is_slow(name)]
        fast = [name for name in self.group if name not in slow]
        planned_s = sum(needed[name] * self._turn_s(name) for name in slow)
        round_s = self._round_s(fast)
        rounds_left = max((until_s - self.now_s - planned_s) / round_s, *needed.values())
        if rounds_left < 1:
            return []
        self.planned = self.number + min(int(rounds_left), math.ceil(left_s / round_s))
        self.ends_s = max(self.budget_s, self.now_s + min(rounds_left * round_s + planned_s, left_s))
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
        """Turns that the configuration still needs."""
        turns = len(self.rows[name])
        if self._has_short_turns(name):
            return max(0, math.ceil(SHORT_TURNS * self.share) - turns)
        lacking = self.pace.answers * self.share - self._answers(name)
        in_turn = self.pace.slow_turn_s * self._rate(name)
        for_answers = min(math.ceil(lacking / in_turn), MOST_TURNS - turns) if self._answers(name) else 0
        return max(0, math.ceil(self.pace.fewest_turns * self.share) - turns, for_answers)

    def _answers(self, name: str) -> int:
        return sum(row.answers for row in self.rows[name])

    def _rate(self, name: str) -> float:
        """Geometric mean of the rates, or of their upper bounds; 0 without any."""
        rates = [row.highest_rps for row in self.rows[name]]
        return math.exp(sum(map(math.log, rates)) / len(rates)) if rates and all(rates) else 0.0

    def _is_slow(self, name: str, below: float = SLOW_BELOW) -> bool:
        best = max(map(self._rate, self.rows))
        return self._rate(name) < min(below * best, SLOW_TO_REFERENCE * self._rate(self.reference))

    def _has_short_turns(self, name: str) -> bool:
        return self._is_slow(name, SHORT_TURNS_BELOW)

    def _every(self, name: str) -> int:
        """Every how many turns in-process rates are measured beside the configuration's turn."""
        if self._has_short_turns(name) or 0 < self.planned < self.pace.fewest_turns * self.share:
            return 1
        few = self._is_slow(name) or self.planned < self.pace.fewest_rounds
        return OFTEN_EVERY if few else SLOWLY_EVERY

    def _turn_s(self, name: str) -> float:
        """Expected seconds of the next turn, with its share of the measurements in-process."""
        return self.cost_s[name] + self.work_s[name] / self._every(name)

    def _round_s(self, names: Sequence[str]) -> float:
        return sum(map(self._turn_s, names))

    def _plan(self, name: str) -> LoadPlan:
        """Plan the next turn; each turn of a slow configuration collects its share of the answers."""
        requests, most_s = ANSWERS_PER_USER * self.users, self.pace.slow_turn_s
        rows = self.rows[name]
        if not rows:
            most_s = self.pace.first_turn_s
        elif self._has_short_turns(name):
            most_s = self.pace.turn_s
        elif self._is_slow(name):
            turns_left = max(1, self.pace.fewest_turns - len(rows))
            requests = max(2 * self.users, math.ceil((self.pace.answers - self._answers(name)) / turns_left))
        requests = max(requests, math.ceil(self.pace.answers / self.pace.fewest_turns))
        plan = turn_plan(self.users, self.timeout_s, self.seed, self.number, self.pace)
        return replace(plan, requests=requests, max_s=most_s)

    def _rates_by_size(self, name: str, until_s: float) -> Schedule[dict[int, float]]:
        """Probe the pipeline in batches of 1, 2, 4 and so on, and the largest.

        Empty if that fails or would take longer than ``until_s``: the fastest of fewer sizes would be no
        bound. Each size is probed twice, in a first look once; a single one is not.
        """
        largest = self.largest_batch[name]
        if largest == 1:
            return {1: math.inf}
        longest_s = LONGEST_STREAMS_S if self.rows[name][0].stream else LONGEST_BATCH_S
        rates: dict[int, float] = {}
        for size in sorted({*(2**k for k in range(largest.bit_length())), largest}):
            best = max(rates.values(), default=0.0)
            if rates and size > longest_s * best:
                break
            began_s = self.now_s
            if began_s + (max(self.pace.work_s, size / best) if best else 0.0) > until_s:
                print_wrapped(f"without {in_process(name)}: no time is left to find its fastest batches")
                return {}
            probes: list[float] = []
            while len(probes) < 2 * self.share and self.now_s < began_s + 2 * self.pace.work_s:
                work = Work("pipeline", size, self.pace.work_s)
                sample = yield from self._measure(in_process(name), work, PROBES)
                if sample is None:
                    return {}
                probes.append(sample.row.highest_rps)
            rates[size] = sum(probes) / len(probes)
        return rates

    def _end_s(self) -> float | None:
        """When the minimum rounds will be done, by the cost of turns; None as long as that is not known."""
        if not self.fewest:
            return self.ends_s
        turns = self.fewest * len(self.group) - sum(map(len, self.rows.values()))
        turn_s = sum(self.cost_s.values()) / max(1, len(self.cost_s))
        return max(self.budget_s, self.now_s + turns * turn_s + self.starts_s)

    def _measure_work(self, name: str, kinds: Sequence[WorkKind]) -> Schedule[None]:
        began_s = self.now_s
        for kind in kinds:
            if name in self.ready:
                work = Work(kind, self.batch_size[name], self.pace.work_s)
                yield from self._measure(in_process(name), work, self.number)
        self.work_s[name] = self.now_s - began_s

    def _measure(
        self, subject: str, load: LoadPlan | Work, number: int, note: str = ""
    ) -> Schedule[Sample | None]:
        """Measure a turn; None if it is left out, with its subject unless that takes others."""
        answer = yield from attempt(Turn(subject, load, number, note=note, end_s=self._end_s()))
        self.now_s = answer.ended_s
        if isinstance(answer, Sample):
            return answer
        if not answer.takes_others:
            self.ready.discard(configuration_of(subject))
        return None
