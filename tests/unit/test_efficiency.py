"""Efficiency divides by what the server can form: not by a batch that it never has."""

from __future__ import annotations

import pytest

from litmeter.benchmark.rows import pipeline_as_served
from tests.support.synthetic_results import batch

BASELINE = [batch(1, 50.0, 40.0), batch(4, 90.0, 80.0), batch(8, 100.0, 95.0)]


@pytest.mark.parametrize(
    ("max_batch_size", "users", "size"),
    [(4, 8, 4), (256, 1, 1), (256, 8, 8), (1, 8, 1), (2, 8, 1), (4096, 6, 4)],
)
def test_the_batch_size_is_one_that_can_be_formed(max_batch_size: int, users: int, size: int) -> None:
    assert pipeline_as_served(BASELINE, max_batch_size, users).batch_size == size


def test_the_fastest_of_those_that_can_be_formed_counts() -> None:
    slow_in_fours = [batch(1, 50.0, 40.0), batch(4, 50.0, 35.0)]
    assert pipeline_as_served(slow_in_fours, 4, 8).batch_size == 1


def test_without_a_small_batch_the_smallest_is_taken() -> None:
    assert pipeline_as_served(BASELINE[1:], 1, 1).batch_size == 4
