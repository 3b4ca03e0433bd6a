"""Measured peaks of this device: operations per second of matrix products, and memory bandwidth."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch

MATRIX_SIZES = (512, 1024, 2048)
"""Sides of the square matrices; which is fastest depends on caches and device."""
COPY_BYTES = 2**28
"""Larger than any cache."""
MEASURE_S = 0.5
LONGEST_PRODUCT_S = 1.0
"""Larger matrices are not tried: without instructions for a format, one product takes minutes."""


def measured_peak_flops(device: str, dtype: str) -> float:
    """FLOP/s of the fastest square matrix product of several sizes, all cores, best of many runs.

    A product of n x n matrices is 2 n^3 FLOPs.

    Args:
        dtype: torch's name of the number format.
    """
    peak = 0.0
    for size in MATRIX_SIZES:
        if peak and 2 * size**3 / peak > LONGEST_PRODUCT_S:
            break
        peak = max(peak, _matrix_product_flops(device, getattr(torch, dtype), size))
    return peak


def measured_bandwidth(device: str) -> float:
    """Bytes per second, read and written, of the fastest of many copies too large for a cache."""
    source = torch.ones(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / _shortest_s(lambda: target.copy_(source), device)


def _matrix_product_flops(device: str, dtype: torch.dtype, size: int) -> float:
    if dtype == torch.int8:
        left, right = (torch.randint(-128, 128, (size, size), dtype=dtype) for _ in range(2))
        # The product in int32 has no public name (torch.ops.aten lists it).
        return 2 * size**3 / _shortest_s(lambda: torch._int_mm(left, right), device)
    left = torch.randn(size, size, device=device, dtype=dtype)
    right = torch.randn(size, size, device=device, dtype=dtype)
    out = torch.empty_like(left)
    return 2 * size**3 / _shortest_s(lambda: torch.mm(left, right, out=out), device)


def _shortest_s(operation: Callable[[], object], device: str) -> float:
    """Shortest wall time of ``operation`` among its runs within MEASURE_S, after a warm-up run."""

    def run_s() -> float:
        start = perf_counter()
        operation()
        if device == "cuda":
            torch.cuda.synchronize()
        return perf_counter() - start

    run_s()
    started, shortest = perf_counter(), float("inf")
    while perf_counter() - started < MEASURE_S:
        shortest = min(shortest, run_s())
    return shortest
