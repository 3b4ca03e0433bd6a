"""Who is loaded when in a comparison, on a machine that is made up: servers that take as long as they say."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest

from litmeter.errors import LitmeterError
from litmeter.load import LoadPlan
from litmeter.measure.rounds import PACE, RESTARTED_PACE, comparison, head_to_head, restarted
from litmeter.measure.rows import TurnRow
from litmeter.measure.turn import (
    LeftOut,
    MakeReady,
    Ready,
    Sample,
    Schedule,
    Turn,
    Work,
    configuration_of,
    in_process,
)

USERS, MUTE = 8, 0.05
AMX = {"e1": 21.0, "e2": 24.0, "e3": 4.2, "e4": 4.2, "e5": 4.2, "e6": 4.2, "e7": 210.0, "candidate": 124.0}
AVX2 = AMX | {"e3": 3.9, "e4": 0.8, "e5": 0.8, "e6": 0.8, "e7": 3.5, "candidate": 170.0}
"""Requests per second: the second emulates half precision."""


@dataclass
class Machine:
    """Answers a schedule's turns at fixed rates, with 5% noise, and keeps them.

    Attributes:
        holds: number of servers that memory has room for.
        fastest_size: in-process, smaller and larger batches are slower.
        fails: turns that end their subject.
        streams: whether answers stream.
    """

    rates: Mapping[str, float]
    holds: int = 99
    fastest_size: int = 4
    fails: Callable[[Turn], bool] = lambda turn: False
    streams: bool = False
    start_s: float = 4.0
    now_s: float = 0.0
    rows: list[TurnRow] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    serves: list[tuple[float, tuple[str, ...]]] = field(default_factory=list)
    result: object = None

    def run(self, schedule: Schedule[object]) -> Machine:
        answer: Sample | Ready | LeftOut | None = None
        ready: set[str] = set()
        try:
            while True:
                asked = schedule.send(answer)  # type: ignore[arg-type]
                if isinstance(asked, MakeReady):
                    names = asked.names[: self.holds]
                    self.serves.append((self.now_s, asked.names))
                    new = set(names) - ready
                    self.now_s += self.start_s * len(new)
                    ready = set(names)
                    answer = Ready(names, self.now_s, dict.fromkeys(new, self.start_s))
                else:
                    assert asked.subject in ready
                    answer = self.sample(asked)
                    if self.fails(asked):
                        ready.discard(asked.subject)
                        answer = LeftOut(asked.subject, "it fails", self.now_s)
        except StopIteration as end:
            self.result = end.value
            return self

    def sample(self, turn: Turn) -> Sample:
        name = configuration_of(turn.subject)
        rate = self.rates[name] * math.exp(np.random.default_rng(len(self.rows)).normal(0, 0.05))
        if isinstance(turn.load, LoadPlan):
            plan, work, size = turn.load, "served", None
            first_s = plan.users / rate
            slow = first_s > (plan.give_up_s or math.inf)
            if slow:
                seconds = window_s = min(plan.requests / rate, plan.max_s + first_s)
            else:
                window_s = min(plan.max_s, max(plan.min_s, plan.requests / rate))
                seconds = 2 * first_s + plan.warmup_s + window_s
        else:
            work, size = turn.load.kind, turn.load.batch_size
            rate *= 1.3 / (1 + abs(math.log2(size / self.fastest_size)))
            seconds = window_s = max(turn.load.seconds, size / rate)
        answers = round(rate * window_s)
        if rate < MUTE:
            seconds, answers = 60.0, 0
        row = TurnRow(
            turn=len(self.rows),
            at_s=self.now_s,
            seconds=seconds,
            round=turn.round,
            subject=name,
            work=work,
            batch_size=size,
            rate_rps=rate if answers else None,
            bound_rps=None if answers else USERS / seconds,
            answers=answers,
            stream={"chunks_rps": 1.0} if self.streams else {},
        )
        self.now_s += seconds + 0.05
        self.rows.append(row)
        self.turns.append(turn)
        return Sample(turn, row)

    def served(self, name: str) -> list[TurnRow]:
        return [row for row in self.rows if (row.subject, row.work) == (name, "served")]

    def order(self, number: int) -> list[str]:
        return [row.subject for row in self.rows if (row.round, row.work) == (number, "served")]


def compared(rates: Mapping[str, float], seconds: float = 400.0, holds: int = 99) -> Machine:
    largest = {name: 1 if name == "e1" else USERS for name in rates}
    schedule = comparison(list(rates), "e1", USERS, seconds, seed=1, timeout_s=60.0, largest_batch=largest)
    return Machine(rates, holds).run(schedule)


def beside(machine: Machine, name: str) -> Iterator[tuple[TurnRow, TurnRow, bool]]:
    """Its pipeline's turns beside served ones: both rows, and whether the pipeline came first."""
    served = {row.round: row for row in machine.served(name)}
    for row in machine.rows:
        if (row.subject, row.work) == (name, "pipeline") and row.round >= 0:
            yield row, served[row.round], row.turn < served[row.round].turn


@pytest.mark.parametrize("rates", [AMX, AVX2])
def test_all_have_six_turns_and_130_answers_in_the_time_and_the_hopeless_three_short_turns(
    rates: Mapping[str, float],
) -> None:
    machine = compared(rates)
    assert 0.95 * 400 < machine.now_s < 1.03 * 400
    hopeless = [name for name, rate in rates.items() if rate < 1]
    for name in rates.keys() - hopeless:
        turns = machine.served(name)
        assert len(turns) >= 6, name
        assert sum(row.answers for row in turns) >= PACE.answers, name
    assert [len(machine.served(name)) for name in hopeless] == [3] * len(hopeless)
    assert len(machine.served("e1")) >= PACE.fewest_rounds


def test_the_turns_of_the_slow_are_spread_over_the_rounds() -> None:
    machine = compared(AMX)
    last = max(row.round for row in machine.rows)
    for name in ("e3", "e4", "e5", "e6"):
        gaps = np.diff([*(row.round for row in machine.served(name)), last + 1])
        assert gaps.max() <= 2 * last / 6


def test_orders_are_random_and_every_second_one_is_the_reverse_with_the_fast_together() -> None:
    machine = compared(AMX)
    fast = ["e1", "e2", "e7", "candidate"]
    order = [machine.order(number) for number in range(12)]
    of_fast = [[name for name in names if name in fast] for names in order]
    assert all(of_fast[number + 1] == of_fast[number][::-1] for number in range(0, 12, 2))
    assert len({tuple(names) for names in of_fast[::2]}) > 3
    for names in order[1:]:
        places = [place for place, name in enumerate(names) if name in fast]
        assert places == list(range(places[0], places[0] + 4))


@pytest.mark.parametrize("rates", [AMX, AVX2])
def test_in_process_rates_stand_beside_served_turns_now_before_and_now_after(
    rates: Mapping[str, float],
) -> None:
    machine = compared(rates)
    for name, rate in rates.items():
        pairs = list(beside(machine, name))
        assert len(pairs) >= (2 if rate < 1 else 3 if rate < 5 else 4)
        before = [first for *_, first in pairs]
        assert before == [place % 2 == 0 for place in range(len(pairs))]
        assert all(abs(row.turn - served.turn) == 1 for row, served, _ in pairs)
        models = [row for row in machine.rows if (row.subject, row.work) == (name, "model")]
        assert [row.round for row in models] == [row.round for row, *_ in pairs]
    sizes = {row.batch_size for row in machine.rows if row.work == "model" and row.subject == "candidate"}
    assert sizes == {4}
    assert {row.batch_size for row in machine.rows if row.work == "model" and row.subject == "e1"} == {1}


def test_all_workers_at_once_are_measured_where_they_crowd_the_cores() -> None:
    rates, largest = {"e1": 20.0, "e3": 2.0}, {"e1": 1, "e3": USERS}
    work = {"e3": [Work("crowded", 1, 0.0, 4), Work("one_thread", 1, 0.0, 4, 1), Work("filled", 16, 0.0)]}
    schedule = comparison(list(rates), "e1", USERS, 90.0, 1, 60.0, largest, probed=work)
    machine = Machine(rates).run(schedule)
    rows = {row.work: row for row in machine.rows if row.work in ("crowded", "one_thread", "filled")}
    assert [(row.subject, row.round) for row in rows.values()] == [("e3", -1)] * 3
    assert [row.batch_size for row in rows.values()] == [1, 1, 16]


def test_a_batch_that_takes_longer_than_the_time_for_it_is_not_probed() -> None:
    rates, largest = {"e1": 20.0, "e3": 2.0}, {"e1": 1, "e3": USERS}
    probed = {"e3": [Work("filled", 4096, 0.0)]}
    schedule = comparison(list(rates), "e1", USERS, 90.0, 1, 60.0, largest, probed=probed)
    machine = Machine(rates).run(schedule)
    assert list(beside(machine, "e3"))
    assert not [row for row in machine.rows if row.work == "filled"]


def test_who_does_not_start_in_process_is_compared_without() -> None:
    machine = compared({"e1": 20.0, "e2": 40.0}, 120.0, holds=3)
    assert machine.serves[1][1] == ("e1", "e2", in_process("e1"), in_process("e2"))
    assert len(list(beside(machine, "e1"))) >= 4
    assert not list(beside(machine, "e2"))


def test_the_search_for_batch_sizes_keeps_to_its_share_of_the_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of streams, whose largest batches take six seconds; minimum turns take twice the budget."""
    rates = {f"e{number}": 2.0 for number in range(1, 13)}
    schedule = comparison([*rates], "e1", USERS, 200.0, 1, 60.0, dict.fromkeys(rates, USERS))
    machine = Machine(rates, streams=True).run(schedule)
    begun_s = machine.serves[1][0]
    searches = [row for row in machine.rows if row.round == -1]
    ended_s = searches[-1].at_s + searches[-1].seconds
    began_s = begun_s + 12 * machine.start_s
    assert ended_s - began_s < (400.0 - began_s) / 3 + max(row.seconds for row in searches)
    left_out = " ".join(capsys.readouterr().out.split()).count("no time is left")
    assert 0 < left_out <= 12
    assert len([name for name in rates if list(beside(machine, name))]) == 12 - left_out


@pytest.mark.parametrize(
    ("kind", "number"), [("pipeline", -1), ("crowded", -1), ("model", 1), ("pipeline", 4)]
)
def test_who_fails_in_process_is_compared_without(kind: str, number: int) -> None:
    """Whether in the search for its batch size, in a probe, or beside a served turn."""

    def fails(turn: Turn) -> bool:
        return turn.subject == in_process("e2") and turn.round >= number and turn.load.kind == kind  # type: ignore[union-attr]

    rates, largest = {"e1": 20.0, "e2": 40.0}, {"e1": 1, "e2": USERS}
    probed = {"e2": [Work("crowded", 1, 0.0, 4)]}
    schedule = comparison([*rates], "e1", USERS, 120.0, 1, 60.0, largest, probed=probed)
    machine = Machine(rates, fails=fails).run(schedule)
    of_e2 = [turn for turn in machine.turns if turn.subject == in_process("e2")]
    assert [turn for turn in of_e2 if fails(turn)] == of_e2[-1:]
    assert len(list(beside(machine, "e1"))) >= 4
    assert len(machine.served("e2")) == len(machine.served("e1"))


def test_in_groups_each_has_the_reference_beside_it_and_its_share_of_the_time() -> None:
    machine = compared(AMX, holds=5)
    rounds = [{row.round for row in machine.served(name)} for name in ("e2", "e7")]
    assert not rounds[0] & rounds[1]
    for name in AMX:
        assert {row.round for row in machine.served(name)} <= {row.round for row in machine.served("e1")}
        assert len(machine.served(name)) >= 6
    assert machine.now_s < 1.1 * 400
    with pytest.raises(LitmeterError, match="e1 and e2"):
        compared(AMX, holds=1)


def test_it_ends_where_one_never_answers() -> None:
    machine = compared({"e1": 20.0, "mute": 0.01}, 90.0)
    assert len(machine.served("mute")) == 3
    assert machine.served("mute")[0].rate_rps is None


def test_minimum_turns_beyond_the_budget_are_time_to_run_in_process() -> None:
    machine = compared({"e1": 0.6, "e2": 0.5, "e3": 0.4}, 90.0)
    assert machine.serves[1][0] > 90.0 / 2
    assert list(beside(machine, "e2"))


def test_few_turns_before_the_latest_end_have_in_process_rates_beside_each() -> None:
    """Enough answers would take more than twelve rounds, and four fit."""
    machine = compared({"e1": 1.2, "e2": 1.0, "e3": 0.8, "e4": 0.9}, 150.0)
    assert len(machine.served("e2")) == 4
    assert [row.round for row, _, _ in beside(machine, "e2")] == [1, 2, 3]


def test_the_end_that_is_expected_of_slow_turns_is_at_the_latest_one() -> None:
    machine = compared({"e1": 0.6, "e2": 0.5, "e3": 0.4}, 90.0)
    first, *others = [turn.end_s for turn in machine.turns if turn.round != -1]
    assert first is None
    assert others[-1] == pytest.approx(180.0)
    assert {turn.end_s for turn in compared(AMX).turns} == {None, 400.0}


def test_a_first_look_takes_fewer_turns_of_the_slow() -> None:
    looked, compared_in_full = (compared(AMX, seconds) for seconds in (60.0, 400.0))
    assert len(looked.served("e4")) == 3
    assert len(compared_in_full.served("e4")) >= 7
    assert looked.now_s < 150


def test_head_to_head_has_all_in_every_round_and_twelve_at_least(capsys: pytest.CaptureFixture[str]) -> None:
    for seconds in (5.0, 300.0):
        machine = Machine(AMX).run(head_to_head(["e4", "e7", "e1"], USERS, seconds, seed=1, timeout_s=60.0))
        rounds = Counter(row.subject for row in machine.rows)
        assert len(set(rounds.values())) == 1
        assert rounds["e4"] == PACE.fewest_rounds if seconds < 60 else rounds["e4"] > PACE.fewest_rounds
        assert sorted(machine.order(3)) == ["e1", "e4", "e7"]
        assert machine.order(3) == machine.order(2)[::-1]
    assert 280 < machine.now_s <= 300
    [line] = re.findall(r"a turn of e4 takes .* fit into .* s;", " ".join(capsys.readouterr().out.split()))
    assert "about 1 of 12 rounds fit into 5 s" in line
    with pytest.raises(LitmeterError, match="no room for e1"):
        Machine(AMX, holds=2).run(head_to_head(["e4", "e7", "e1"], USERS, 60.0, seed=1, timeout_s=60.0))


@pytest.mark.parametrize(
    ("seconds", "start_s", "blocks"), [(180.0, 4.0, 6), (720.0, 4.0, 24), (180.0, 30.0, 2), (5.0, 1.0, 2)]
)
def test_restarted_ones_start_first_as_often_as_the_other(
    seconds: float, start_s: float, blocks: int
) -> None:
    names = ("old", "new")
    machine = Machine({"old": 100.0, "new": 100.0}, start_s=start_s)
    machine.run(restarted(names, USERS, seconds, seed=1, timeout_s=60.0))
    started = [order for _, order in machine.serves if order]
    assert started == [names, names[::-1]] * (blocks // 2)
    assert [order for _, order in machine.serves[::2]] == [()] * blocks  # all have ended before
    starts_s, first_rounds = machine.result
    assert starts_s == dict.fromkeys(names, [start_s] * blocks)
    assert len(first_rounds) == blocks
    assert len(machine.rows) >= 2 * PACE.fewest_rounds
    begins = [at_s for at_s, order in machine.serves if order]
    if seconds > 2 * RESTARTED_PACE.block_s:
        assert 0.95 * seconds < machine.now_s <= seconds
        assert max(np.diff([*begins, machine.now_s])) < 1.2 * seconds / blocks


@pytest.mark.parametrize(("schedule", "start_s"), [(restarted, 1.0), (restarted, 9.0), (head_to_head, 4.0)])
def test_the_end_that_is_expected_includes_rounds_that_are_made_up(
    schedule: Callable[..., Schedule[object]], start_s: float
) -> None:
    """From the second turn on, when it is known what turns cost."""
    machine = Machine({"old": 2.0, "new": 3.0}, start_s=start_s)
    machine.run(schedule(("old", "new"), USERS, 5.0, seed=1, timeout_s=60.0))
    assert machine.now_s > 50.0
    first, *others = [turn.end_s for turn in machine.turns]
    assert first is not None
    assert first < 50.0
    assert others == pytest.approx([machine.now_s] * len(others), rel=0.35)
    assert others[-1] == pytest.approx(machine.now_s, rel=0.05)
    quick = Machine({"old": 100.0, "new": 100.0})
    quick.run(schedule(("old", "new"), USERS, 180.0, seed=1, timeout_s=60.0))
    assert {turn.end_s for turn in quick.turns} == {180.0}


def test_turns_between_restarts_are_short() -> None:
    machine = Machine({"old": 100.0, "new": 100.0})
    machine.run(restarted(("old", "new"), USERS, 180.0, seed=1, timeout_s=60.0))
    assert {turn.load.min_s for turn in machine.turns if isinstance(turn.load, LoadPlan)} == {0.3}
    assert machine.order(3) == machine.order(2)[::-1]


def test_restarted_ones_end_early_where_one_answers_nothing() -> None:
    machine = Machine({"old": 100.0, "new": MUTE / 2})
    machine.run(restarted(("old", "new"), USERS, 180.0, seed=1, timeout_s=60.0))
    assert len(machine.rows) == 2
    with pytest.raises(LitmeterError, match="no room for new"):
        Machine(AMX, holds=1).run(restarted(("e1", "new"), USERS, 60.0, seed=1, timeout_s=60.0))


def test_samples_of_a_log_repeat_the_decisions() -> None:
    assert compared(AMX, 150.0).turns == compared(AMX, 150.0).turns
