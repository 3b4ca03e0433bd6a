"""What a load sends, and when: arrivals of an open loop, how senders share them, and heads of requests."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from litmeter.load import LoadPlan
from litmeter.load.process import due_times, post_head
from litmeter.load.senders import shares_of
from tests.support.load import plan

OPEN = plan(8, rate_rps=300.0)


def first(load: LoadPlan, number: int, senders: int = 1) -> list[float]:
    """The first due times of all senders together."""
    shares = [share for share in shares_of(load, senders) if share]
    return sorted(due for share in shares for due in itertools.islice(due_times(share), number // senders))


@pytest.mark.parametrize("senders", [1, 3])
@pytest.mark.parametrize("burstiness", [0.1, 0.5, 1.0, 4.0, math.inf])
def test_gaps_vary_as_the_burstiness_says(burstiness: float, senders: int) -> None:
    """The gamma distribution of shape k has the coefficient of variation 1 / sqrt(k)."""
    gaps = np.diff(first(replace(OPEN, burstiness=burstiness), 39_999, senders))
    assert gaps.mean() == pytest.approx(1 / 300, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(1 / math.sqrt(burstiness), rel=0.05, abs=1e-6)


def test_without_burstiness_gaps_are_exponential() -> None:
    gaps = np.sort(np.diff(first(OPEN, 10_000)))
    shares = 1 - np.exp(-300 * gaps)
    assert np.abs(shares - np.linspace(0, 1, len(gaps))).max() < 0.02


def test_a_seed_and_a_repeat_make_the_arrivals() -> None:
    assert first(OPEN, 9) == first(plan(8, rate_rps=300.0), 9)
    others = [replace(OPEN, seed=2), replace(OPEN, repeat=1)]
    assert len({first(one, 1)[0] for one in [OPEN, *others]}) == 3


def test_a_trace_is_shared_request_by_request() -> None:
    due_s = (0.2, 0.3, 0.9, 1.4)
    trace = replace(OPEN, due_s=due_s)
    shares = [list(due_times(share)) for share in shares_of(trace, 6) if share]
    assert shares == [[0.2], [0.3], [0.9], [1.4], [], []]
    assert first(trace, 4, senders=2) == list(due_s)


def test_a_header_of_ones_own_replaces_the_same_one_in_other_letters() -> None:
    head = post_head("http://10.0.0.7/", {"host": "cats.example"}, 0)
    assert head.lower().count(b"host:") == 1
    assert b"cats.example" in head
