"""The highest rate of matrix products that this device reaches."""

from __future__ import annotations

from time import perf_counter

import torch

SIZES = (512, 1024, 2048)
"""Sides of the square matrices; the best one differs between caches and devices."""
SECONDS_PER_SIZE = 0.5


def measured_peak_flops(device: str, dtype: str) -> float:
    """FLOP/s of the fastest square matrix product of several sizes, all cores, best of many runs.

    ``dtype`` is torch's name of the number format.

    A product of n x n matrices is 2 n^3 FLOPs.
    """
    return max(_fastest_product(device, getattr(torch, dtype), size) for size in SIZES)


def _fastest_product(device: str, dtype: torch.dtype, size: int) -> float:
    left = torch.randn(size, size, device=device, dtype=dtype)
    right = torch.randn(size, size, device=device, dtype=dtype)
    out = torch.empty_like(left)

    def once() -> float:
        start = perf_counter()
        torch.mm(left, right, out=out)
        if device == "cuda":
            torch.cuda.synchronize()
        return perf_counter() - start

    once()
    opened, fastest = perf_counter(), float("inf")
    while perf_counter() - opened < SECONDS_PER_SIZE:
        fastest = min(fastest, once())
    return 2 * size**3 / fastest
