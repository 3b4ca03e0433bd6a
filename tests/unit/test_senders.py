"""How a load is shared by several senders, and how their records come together."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from litmeter.errors import LoadError
from litmeter.load import LoadPlan
from litmeter.load.senders import Member, SenderGroup, clock_difference, merged, on_this_clock, shares_of
from litmeter.stats.records import LoadRecord
from tests.support.load import plan, record

PLAN = plan(8)


def ended(end: list[float], users: int = 1, cores: float = 0.1) -> LoadRecord:
    """Good requests that take a second each."""
    return replace(record(np.array(end) - 1.0, end, users=users), cores=cores)


def test_users_are_shared_and_a_sender_without_any_has_no_part() -> None:
    assert [share and share.users for share in shares_of(PLAN, 3)] == [3, 3, 2]
    assert [share and share.users for share in shares_of(replace(PLAN, users=2), 3)] == [1, 1, None]


def test_users_of_all_senders_have_parts_of_one_order_of_bodies() -> None:
    shares = [share for share in shares_of(replace(PLAN, users=9), 2) if share]
    assert len({share.random_seed for share in shares}) == 1


def test_each_sender_has_its_part_of_a_rate() -> None:
    shares = [share for share in shares_of(replace(PLAN, rate_rps=300.0), 3) if share]
    assert [(share.rate_rps, share.users, share.sender) for share in shares] == [
        (100.0, 3, number) for number in range(3)
    ]


def test_records_come_together_with_every_request_once() -> None:
    together = merged([ended([1.5, 3.5], users=2), ended([2.5, 4.5, 5.5], cores=0.7)], PLAN)
    assert together.users == 3
    assert together.end.tolist() == [1.5, 2.5, 3.5, 4.5, 5.5]
    assert together.user.tolist() == [0, 2, 1, 2, 2]
    assert together.cores == 0.7
    assert together.window == (1.0, 4.0)


def test_times_are_those_of_this_machines_clock() -> None:
    ahead = ended([101.5, 103.5])
    ahead = replace(ahead, window_edges=ahead.window_edges + 100)
    here = on_this_clock(ahead, clock_s=100.0)
    assert here.end == pytest.approx([1.5, 3.5])
    assert here.start == pytest.approx([0.5, 2.5])
    assert here.window == pytest.approx((1.0, 4.0))


def test_the_difference_of_clocks_is_that_of_the_fastest_answer() -> None:
    delays = iter([0.03, 0.0, 0.02, 0.0, 0.01] * 4)  # a busy machine delays some more

    def ask() -> float:
        theirs = time.perf_counter() + 5.0
        time.sleep(next(delays))  # the way back takes longer than the way there
        return theirs

    difference_s, error_s = clock_difference(ask)
    assert abs(difference_s - 5.0) <= error_s < 0.002


class FakeSender:
    """Returns a record, or raises an error, after a while."""

    def __init__(self, outcome: LoadRecord | Exception) -> None:
        self.outcome = outcome
        self.plans: list[LoadPlan] = []

    def wait_until_ready(self) -> None:
        """It is."""

    def run(self, url: str, plan: LoadPlan, *, on_progress: Callable[[float], None]) -> LoadRecord:
        self.plans.append(plan)
        on_progress(0.5)
        time.sleep(0.2)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def test_all_begin_at_the_same_time_each_on_its_own_clock() -> None:
    senders = [FakeSender(ended([1.5])), FakeSender(ended([7.5]))]
    group = SenderGroup([Member("here", senders[0]), Member("there", senders[1], clock_s=5.0)])
    together = group.run("http://x", PLAN)
    begins = [sender.plans[0].begin_at or 0.0 for sender in senders]
    assert begins[1] - begins[0] == pytest.approx(5.0)
    assert begins[0] == pytest.approx(time.perf_counter() + 0.8, abs=0.5)
    assert together.end == pytest.approx([1.5, 2.5])


def test_a_sender_that_cannot_get_ready_is_named() -> None:
    class Gone(FakeSender):
        def wait_until_ready(self) -> None:
            raise LoadError("gone")

    group = SenderGroup([Member("1", FakeSender(ended([1.5]))), Member("2", Gone(ended([1.5])))])
    with pytest.raises(LoadError, match="sender 2: gone; this load is void"):
        group.run("http://x", PLAN)
