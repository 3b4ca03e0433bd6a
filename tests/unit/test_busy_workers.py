"""How many in-process workers are kept busy: the number whose total rate is highest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from litmeter.benchmark.inprocess import InProcessBaseline
from litmeter.params import BaselineSettings
from litmeter.system.conversation import Conversation

SETTINGS = BaselineSettings(batch_sizes=(1,), seconds=0.1)


class Replayed(Conversation):
    """Answers each probe with the next rate of as many busy workers; ``asked`` has their numbers."""

    def __init__(self, rates: Mapping[int, Sequence[float]]) -> None:
        self.rates = {busy: list(own) for busy, own in rates.items()}
        self.asked: list[int] = []

    def send(self, job: Any) -> None:
        if isinstance(job, dict):
            self.asked.append(job["busy"])

    def answer(self) -> Any:
        return [[self.rates[self.asked[-1]].pop(0)], 1.0] if self.asked else 2


@pytest.mark.parametrize(
    ("rates", "busy", "asked"),
    [
        ({1: (20, 21), 2: (40, 39), 4: (80, 75)}, 4, [1, 1, 2, 2, 4, 4]),
        ({1: (20, 21), 2: (15, 14)}, 1, [1, 1, 2, 2]),
        ({1: (20, 21), 2: (30, 12), 4: (35, 36)}, 4, [1, 1, 2, 2, 4, 4]),  # slow for a moment
        ({1: (20, 21), 2: (20, 19.5)}, 1, [1, 1, 2, 2]),
        ({1: (20, 21), 2: (6, 30)}, 1, [1, 1, 2]),  # hopeless at once
        ({1: (20, 21), 2: (7, 30), 4: (5, 60)}, 1, [1, 1, 2, 2, 4]),
        ({1: (20, 21), 2: (30, 31), 4: (30, 29)}, 2, [1, 1, 2, 2, 4, 4]),
    ],
)
def test_the_search_goes_on_while_more_workers_are_faster(
    rates: Mapping[int, Sequence[float]], busy: int, asked: list[int]
) -> None:
    conversation = Replayed(rates)
    inprocess = InProcessBaseline(conversation, 4, SETTINGS, cores=2.0)
    inprocess.wait_until_ready()
    assert inprocess.busy == busy
    assert conversation.asked == asked


def test_a_number_without_a_choice_has_one_probe() -> None:
    conversation = Replayed({1: (20,)})
    inprocess = InProcessBaseline(conversation, 1, SETTINGS, cores=2.0)
    inprocess.wait_until_ready()
    assert (inprocess.busy, conversation.asked) == (1, [1])


@pytest.mark.parametrize(
    ("cores", "fewest"), [(0.0, 1), (1.5, 1), (3.0, 1), (4.0, 2), (5.0, 2), (8.0, 4), (64.0, 4)]
)
def test_workers_of_two_threads_that_have_a_core_for_each_are_all_busy(cores: float, fewest: int) -> None:
    """A GPU has no cores to run out of, and may have room for one worker alone."""
    conversation = Replayed({1: (20, 21), 2: (20, 19), 4: (20, 19)})
    inprocess = InProcessBaseline(conversation, 4, SETTINGS, cores)
    inprocess.wait_until_ready()
    assert inprocess.busy == conversation.asked[0] == fewest
