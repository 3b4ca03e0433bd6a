"""The machine's measured peaks, against work that is timed here.

A machine that is busy with others for a moment gets three chances.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from time import perf_counter

import torch

from litmeter.ceilings import measured_bandwidth, measured_peak_flops


def test_the_measured_peak_is_that_of_products_timed_here() -> None:
    def fastest_product() -> float:
        rates = []
        for size in (512, 1024, 2048):
            factor = torch.randn(size, size)
            out = torch.empty_like(factor)
            multiply = functools.partial(torch.mm, factor, factor, out=out)
            rates.append(2 * size**3 / fastest_s(multiply))
        return max(rates)

    assert agree(lambda: measured_peak_flops("cpu", "float32"), fastest_product)


def test_the_measured_bandwidth_is_that_of_a_copy_timed_here() -> None:
    source = torch.ones(2**28, dtype=torch.uint8)
    target = torch.empty_like(source)
    moved_bytes = 2 * source.nbytes  # read and written
    assert agree(
        lambda: measured_bandwidth("cpu"), lambda: moved_bytes / fastest_s(lambda: target.copy_(source))
    )


def agree(measure: Callable[[], float], timed: Callable[[], float]) -> bool:
    """Whether what is measured lies near what is timed before and after it."""
    for _ in range(3):
        before, measured, after = timed(), measure(), timed()
        if 0.6 * min(before, after) < measured < 1.6 * max(before, after):
            return True
    return False


def fastest_s(work: Callable[[], object]) -> float:
    """Seconds of the fastest of 4 runs: the others were disturbed."""
    work()
    seconds = []
    for _ in range(4):
        started = perf_counter()
        work()
        seconds.append(perf_counter() - started)
    return min(seconds)
