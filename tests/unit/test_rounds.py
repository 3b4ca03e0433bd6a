"""Who is loaded when in a comparison, on a clock of its own: servers that take as long as they say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from litmeter.measure import comparison as comparison_module
from litmeter.measure.comparison import (
    ALONE_ROUNDS,
    FAR_SHARE,
    FIRST_ANSWERS_S,
    LONE_USER,
    SLOW_TURN_S,
    TURN_S,
    WARMUP_S,
    Comparison,
    StartPipelines,
    Turn,
    compare,
)
from litmeter.measure.inprocess import Pipelines
from litmeter.params import ComparisonSettings, ServeSettings
from litmeter.paths import ModelFolders
from tests.support.load import short_load

USERS = 8
START_S = 5.0
RATES = {"reference": 25.0, "fast": 270.0, "near": 160.0, "far": 5.0, "farther": 3.0}
LOAD = short_load(USERS)


class Clock:
    """Seconds that pass only as servers start and take their turns."""

    def __init__(self) -> None:
        self.now = 0.0
        self.starts: list[tuple[float, list[str]]] = []
        self.measured: list[str] = []


def turn_seconds(rate: float, users: int = USERS, turn_s: float = TURN_S) -> float:
    """First answers, a window and last answers; of a slow server three requests per user."""
    if users / rate > FIRST_ANSWERS_S:
        return min(3 * users / rate, SLOW_TURN_S + users / rate)
    return WARMUP_S + max(turn_s, 3 * users / rate) + 2 * users / rate


class MadeUpServer:
    """Answers at its rate; its turn takes as long as first answers, the window and the last answers."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self._clock = clock

    def take_turn(self, generator: object, load: object, number: int, users: int, turn_s: float) -> Turn:
        rate = RATES[self.name]
        self._clock.now += turn_seconds(rate, users, turn_s)
        self._clock.measured.append(self.name)
        noise = float(np.exp(np.random.default_rng(len(self.name) + number).normal(0, 0.03)))
        return Turn(number, users, self.name, rate * noise, np.array([1000 * users / rate]))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()

    @contextmanager
    def servers(names: Sequence[str], *_: Any) -> Iterator[list[MadeUpServer]]:
        clock.starts.append((clock.now, list(names)))
        clock.now += START_S * len(names)
        yield [MadeUpServer(name, clock) for name in names]

    @contextmanager
    def no_generator(*_: Any) -> Iterator[None]:
        yield

    monkeypatch.setattr(comparison_module, "monotonic", lambda: clock.now)
    monkeypatch.setattr(comparison_module, "paused_servers", servers)
    monkeypatch.setattr(comparison_module, "load_generator", no_generator)
    return clock


PIPELINE_S = 0.35


class MadeUpPipelines(Pipelines):
    """Are twice as fast as their servers."""

    def __init__(self, names: Sequence[str], clock: Clock) -> None:
        super().__init__({}, {})
        self._names = names
        self._clock = clock

    def rate_rps(self, name: str, users: int) -> float | None:
        if name not in self._names:
            return None
        self._clock.now += PIPELINE_S
        self._clock.measured.append(f"{name}'s pipeline")
        return 2 * RATES[name]


@dataclass
class Starter:
    """Starts made-up pipelines; ``started`` has their names."""

    clock: Clock
    started: list[list[str]] = field(default_factory=list)

    @contextmanager
    def start(
        self, servers: Sequence[MadeUpServer], all_servers: Sequence[MadeUpServer], users: Sequence[int]
    ) -> Iterator[Pipelines]:
        assert set(servers) <= set(all_servers)
        self.started.append([server.name for server in servers])
        self.clock.now += START_S * len(servers)
        yield MadeUpPipelines(self.started[-1], self.clock)


def compared(
    seconds: float,
    budget_s: float | None = None,
    names: Sequence[str] = tuple(RATES),
    pipelines: StartPipelines | None = None,
    reference: str = "reference",
) -> Comparison:
    settings = ComparisonSettings(reference=reference, users=(USERS,), seconds=seconds)
    configurations = dict.fromkeys(names, ServeSettings())
    folders = ModelFolders(Path("exported"), Path("compiled"))
    return compare(configurations, folders, "cpu", [b"photo"], LOAD, settings, budget_s or seconds, pipelines)


def order_of(comparison: Comparison, number: int) -> list[str]:
    return [turn.name for turn in comparison.turns if (turn.users, turn.round) == (USERS, number)]


def test_orders_are_random_and_every_second_one_is_the_reverse(clock: Clock) -> None:
    found = compared(400.0)
    order = [order_of(found, number) for number in range(12)]
    lasting = [[name for name in names if "far" not in name] for names in order]
    assert order[1] != order[0]
    assert all(lasting[number + 1] == lasting[number][::-1] for number in range(0, 12, 2))
    assert len({tuple(names) for names in lasting[::2]}) > 2


def test_the_budget_is_kept_and_those_far_behind_leave_after_four_rounds(clock: Clock) -> None:
    found = compared(330.0)
    assert 300.0 < clock.now <= 330.0  # with the starts of the servers
    rounds = Counter(turn.name for turn in found.turns if turn.users == USERS)
    assert (rounds["far"], rounds["farther"]) == (4, 4)
    assert set(found.dropped) == {"far", "farther"}
    assert rounds["reference"] == rounds["fast"] == rounds["near"] > 20


def test_where_all_others_have_left_the_reference_goes_on_for_its_pipeline_alone(clock: Clock) -> None:
    found = compared(330.0, names=["fast", "far"], reference="fast", pipelines=Starter(clock).start)
    assert list(found.dropped) == ["far"]
    turns = [turn for turn in found.turns if turn.users == USERS and turn.name == "fast"]
    assert max(turn.round for turn in turns) + 1 <= max(ALONE_ROUNDS, found.dropped["far"])
    assert sum(turn.pipeline_rps is not None for turn in turns) >= 4
    assert clock.now < 330.0 / 2


def test_in_a_short_time_those_far_behind_have_their_share_and_as_many_rounds_as_each_other(
    clock: Clock,
) -> None:
    found = compared(90.0)
    rounds = Counter(turn.name for turn in found.turns if turn.users == USERS)
    assert 1 <= rounds["far"] == rounds["farther"] < 4 < rounds["fast"]
    in_a_round_s = turn_seconds(RATES["far"]) + turn_seconds(RATES["farther"])
    assert (rounds["far"] - 1) * in_a_round_s < FAR_SHARE * (90.0 - START_S * len(RATES))


def three_at_most(clock: Clock) -> Callable[..., AbstractContextManager[list[MadeUpServer]]]:
    """Servers, where memory has room for three at once."""

    @contextmanager
    def servers(names: Sequence[str], *_: Any) -> Iterator[list[MadeUpServer]]:
        clock.now += START_S * 3
        yield [MadeUpServer(name, clock) for name in names[:3]]

    return servers


@pytest.mark.parametrize(
    ("rates", "rounds"),
    [
        # In the second group, one that is far behind waits for nobody of the first.
        ({"reference": 25.0, "farther": 1.0, "fast": 270.0, "far": 9.0, "near": 160.0}, (3, 4)),
        # And has its share of its own group's time.
        ({"reference": 25.0, "fast": 270.0, "near": 160.0, "farther": 0.5, "other": 200.0}, (1, 0)),
    ],
)
def test_in_groups_those_far_behind_have_rounds_of_their_own(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, rates: dict[str, float], rounds: tuple[int, int]
) -> None:
    monkeypatch.setattr(comparison_module, "paused_servers", three_at_most(clock))
    for name, rate in rates.items():
        monkeypatch.setitem(RATES, name, rate)
    found = Counter(turn.name for turn in compared(330.0, names=list(rates)).turns if turn.users == USERS)
    assert (found["farther"], found["far"]) == rounds


def test_a_lone_user_comes_first_whatever_part_of_the_time_a_change_has(clock: Clock) -> None:
    alone = [turn.name for turn in compared(330.0, budget_s=120.0).turns if turn.users == LONE_USER]
    assert alone == [*list(RATES)[::-1], *RATES]
    assert not [turn for turn in compared(199.0).turns if turn.users == LONE_USER]


def test_from_ten_minutes_on_servers_and_pipelines_are_started_anew_halfway(clock: Clock) -> None:
    starter = Starter(clock)
    found = compared(600.0, pipelines=starter.start)
    [first, second] = clock.starts
    assert first == (0.0, list(RATES))
    assert 280.0 < second[0] <= 300.0
    assert set(second[1]) == set(RATES) - set(found.dropped)
    assert len(starter.started) == 2
    assert clock.now <= 600.0
    turns = [turn for turn in found.turns if turn.users == USERS]
    last = max(turn.round for turn in turns)
    assert {turn.round for turn in turns} == set(range(last + 1))
    rounds = [turn.round for turn in turns if turn.name == "fast" and turn.pipeline_rps]
    assert min(rounds) < 10
    assert max(rounds) > 30


def test_pipelines_of_all_that_are_not_far_behind_are_members_of_two_of_every_four_rounds(
    clock: Clock,
) -> None:
    """Before their servers' turns in one of them, and after in the other."""
    starter = Starter(clock)
    found = compared(330.0, pipelines=starter.start)
    near = ["reference", "fast", "near"]
    assert starter.started == [near]
    assert clock.now <= 330.0
    turns = [turn for turn in found.turns if turn.users == USERS]
    last = max(turn.round for turn in turns)
    assert last > 20
    with_pipelines = {turn.round for turn in turns if turn.pipeline_rps}
    assert with_pipelines == {number for number in range(4, last + 1) if number % 4 < 2}
    own = [turn for turn in turns if turn.round in with_pipelines and turn.name in near]
    assert [turn.pipeline_rps for turn in own] == [2 * RATES[turn.name] for turn in own]
    assert not [turn for turn in turns if turn.name not in near and turn.pipeline_rps]
    order = clock.measured
    beside = [
        (order[place - 1] == turn, order[place + 1] == turn)
        for place, name in enumerate(order[:-1])
        if (turn := name.removesuffix("'s pipeline")) != name
    ]
    assert beside[:6] == [(True, False)] * 3 + [(False, True)] * 3


def test_pipelines_are_not_started_without_time_for_four_rounds_with_them(clock: Clock) -> None:
    starter = Starter(clock)
    found = compared(100.0, pipelines=starter.start)
    assert max(turn.round for turn in found.turns if turn.users == USERS) > 8
    assert starter.started == []
    compared(160.0, pipelines=starter.start)
    assert len(starter.started) == 1


def test_in_groups_there_are_no_pipelines(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """As memory has no room for all servers."""
    starter = Starter(clock)
    monkeypatch.setattr(comparison_module, "paused_servers", three_at_most(clock))
    compared(330.0, pipelines=starter.start)
    assert starter.started == []
