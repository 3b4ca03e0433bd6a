"""A race: which racers are eliminated, and which join."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from litmeter.errors import ServerError
from litmeter.kinds.classifier import Classifier
from litmeter.measure.rounds import turn_plan
from litmeter.measure.turn import Turn
from litmeter.params import load_params
from litmeter.tune.search import FEWEST_ROUNDS, JOIN_MOST, TUNE_PACE, Race, Racer, race
from tests.support.made_up_machine import MadeUpMachine
from tests.support.project import ROOT

PARAMS = load_params(ROOT / "params.yaml")
PLAN = turn_plan(8, PARAMS.load.timeout_s, PARAMS.load.seed, 0, TUNE_PACE)
LETTERS = {letter: Classifier(max_batch_size=size) for size, letter in enumerate("sabcdefghi", 1)}
NAMES = {letter: settings.search_name for letter, settings in LETTERS.items()}
LETTER_OF = {name: letter for letter, name in NAMES.items()}


def raced(
    rates: Mapping[str, float | Sequence[float]],
    max_s: float = 60.0,
    neighbours: Mapping[str, str] | None = None,
    limits: Mapping[str, float] = {},
    **machine: Any,
) -> tuple[Race, MadeUpMachine]:
    """A race with these rates, or rates by round, of the reference "s" and others, its neighbours."""

    def rate_rps(turn: Turn) -> float:
        own = rates[LETTER_OF[turn.subject]]
        return own if isinstance(own, float) else own[turn.round]

    def next_racers() -> list[Racer]:
        steps = neighbours or {"s": "".join(rates)}
        near = (steps.get(LETTER_OF[centre.search_name], "") for centre in racing.centres())
        new = ([one for one in letters if NAMES[one] not in racing.racers] for letters in near)
        return [Racer(LETTERS[one], 1.0) for one in next(filter(None, new), [])]

    racing = Race(PARAMS.tune.model_copy(update=dict(limits)))
    racing.join([Racer(LETTERS["s"], 1.0)])
    made_up = MadeUpMachine(rate_rps, **machine)
    made_up.run(race(racing, PLAN, max_s, next_racers))
    return racing, made_up


def left(racing: Race) -> dict[str, int]:
    """The rounds in which eliminated racers took part."""
    racers = racing.racers.items()
    return {LETTER_OF[name]: one.rounds for name, one in racers if one.eliminated_after_rounds is not None}


def test_racers_that_are_slower_beyond_doubt_are_eliminated_and_the_reference_goes_on() -> None:
    rates = {"s": 90.0, "a": 100.0, "b": 99.5, "c": 85.0}
    racing, machine = raced(rates, 200.0, noise=0.02)
    assert {"s", "c"} <= left(racing).keys() <= {"s", "c", "b"}
    assert FEWEST_ROUNDS <= left(racing)["c"] < racing.rounds
    assert racing.leader in (NAMES["a"], NAMES["b"])
    last = [turn.subject for turn in machine.turns if turn.round == racing.rounds - 1]
    assert NAMES["s"] in last
    assert NAMES["c"] not in machine.ready
    own = racing.ratio(NAMES["a"], NAMES["s"])
    assert own is not None
    assert own.low is not None
    assert 1.05 < own.low < own.ratio < 1.16


def test_streams_race_by_their_tokens_else_by_their_bytes() -> None:
    """Requests of "a" take longer, as its answers are longer."""
    for unit in ("tokens_rps", "bytes_rps"):
        rates = {NAMES["s"]: {unit: 50.0, "events_rps": 9.0}, NAMES["a"]: {unit: 100.0, "events_rps": 8.0}}
        racing, _ = raced({"s": 90.0, "a": 80.0}, columns=lambda turn, of=rates: {"stream": of[turn.subject]})
        assert racing.leader == NAMES["a"]
        assert racing.racers[racing.leader].rates[-1] == 100.0
        assert racing.racers[racing.leader].requests_rps == pytest.approx([80.0] * 3)


def test_every_second_round_has_the_reverse_order() -> None:
    _, machine = raced(dict.fromkeys("sabc", 100.0), noise=0.03, seed=1)
    orders = [[turn.subject for turn in machine.turns if turn.round == number] for number in range(2, 6)]
    assert orders[1] == orders[0][::-1]
    assert orders[3] == orders[2][::-1]
    assert orders[0] != orders[2]


def test_racers_far_behind_leave_after_two_rounds_and_those_that_never_answer_too() -> None:
    near = [90.0, 70.0, 79.0, *[90.0] * 100]
    racing, _ = raced({"s": 100.0, "a": 75.0, "b": 0.0, "c": near}, max_s=60.0, noise=0.001)
    assert {letter: rounds for letter, rounds in left(racing).items() if rounds == 2} == {
        **{"a": 2, "b": 2},
        "c": 2,
    }
    assert racing.ratio(NAMES["b"], NAMES["s"]) is None
    racing, _ = raced({"s": 100.0, "a": [0.0, 70.0, 85.0, *[90.0] * 100]}, max_s=60.0, noise=0.001)
    assert left(racing)["a"] > 2


def test_a_reference_that_does_not_answer_is_an_error() -> None:
    with pytest.raises(ServerError, match=r"^serve: "):
        raced({"s": 0.0, "a": 100.0})


def test_a_machine_that_slows_down_decides_nothing_and_equals_end_the_race() -> None:
    slow = [50.0 if number % 3 == 0 else 100.0 for number in range(200)]
    racing, machine = raced({"s": slow, "a": slow, "b": slow}, max_s=500.0, noise=0.02, seed=1)
    assert left(racing) == {}
    assert racing.settled()
    assert machine.seconds < 400


def test_racers_that_violate_a_constraint_eliminate_nobody() -> None:
    def columns(turn: Turn) -> dict[str, float]:
        return {"memory_mib": 900.0 if turn.subject == NAMES["a"] else 300.0}

    def latency_ms(turn: Turn) -> float:
        return 20.0 if turn.subject == NAMES["c"] else 90.0

    limits = {"max_memory_mib": 600.0, "max_p95_ms": 50.0}
    rates = {"s": 800.0, "a": 2000.0, "b": 1500.0, "c": 900.0}
    racing, _ = raced(rates, limits=limits, noise=0.01, columns=columns, latency_ms=latency_ms)
    assert racing.remaining == [NAMES["c"]]
    assert left(racing) == {"a": 1, "s": FEWEST_ROUNDS}
    assert "memory" in racing.racers[NAMES["a"]].constraint_violation
    assert "p95" in racing.racers[NAMES["b"]].constraint_violation


def test_racers_without_memory_race_as_soon_as_others_have_left() -> None:
    rates = {"s": 100.0, "a": 50.0, "b": 100.0, "c": 120.0}
    racing, machine = raced(rates, max_s=100.0, places=3, noise=0.01)
    assert min(turn.round for turn in machine.turns if turn.subject == NAMES["c"]) == 3
    assert racing.leader == NAMES["c"]
    racing, _ = raced({**rates, "a": 100.0}, max_s=60.0, places=3, noise=0.01)
    assert [name for name, one in racing.racers.items() if one.out_of_memory] == [NAMES["c"]]


def test_neighbours_of_a_new_leader_join_some_at_a_time_and_only_where_there_is_time() -> None:
    rates = {"s": 100.0, "a": 110.0, "i": 150.0, **dict.fromkeys("bcdefgh", 90.0)}
    steps = {"s": "a", "a": "bcdefghi"}
    racing, machine = raced(rates, max_s=200.0, neighbours=steps, noise=0.01)
    first = [min(turn.round for turn in machine.turns if turn.subject == name) for name in racing.racers]
    assert first == [0, 1, *[4] * JOIN_MOST, 7, 7]
    assert racing.leader == NAMES["i"]
    own = racing.ratio(NAMES["i"], NAMES["a"])
    assert own is not None
    assert own.ratio == pytest.approx(150 / 110, abs=0.05)
    racing, machine = raced(rates, max_s=5.0, neighbours=steps)
    assert (list(racing.racers), racing.rounds) == ([NAMES["s"], NAMES["a"]], FEWEST_ROUNDS)
