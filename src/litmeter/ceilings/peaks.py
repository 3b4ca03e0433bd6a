"""Peaks of devices: of common NVIDIA GPUs by their datasheets, and of this one as measured.

Datasheets' peaks are dense (without sparsity). ``full`` is FP32 on the CUDA cores, ``half`` FP16 on the
tensor cores with FP32 accumulation. TF32 is neither: it has float32's range and FP16's precision, and the
server switches it off.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import torch


@dataclass(frozen=True)
class Device:
    """A GPU's datasheet.

    Attributes:
        pattern: regular expression for the name that CUDA reports.
        full_tflops, half_tflops: 10^12 FLOP/s.
    """

    name: str
    pattern: str
    full_tflops: float
    half_tflops: float
    source: str


DEVICES = (
    Device("T4", r"\bT4\b", 8.1, 65.0, "NVIDIA T4 datasheet"),
    Device("V100 SXM2", r"V100-SXM2", 15.7, 125.0, "NVIDIA V100 datasheet"),
    Device("V100 PCIe", r"V100-PCIE", 14.0, 112.0, "NVIDIA V100 datasheet"),
    Device("A10", r"\bA10\b", 31.2, 125.0, "NVIDIA A10 datasheet"),
    Device("A30", r"\bA30\b", 10.3, 165.0, "NVIDIA A30 datasheet"),
    Device("A40", r"\bA40\b", 37.4, 149.7, "NVIDIA A40 datasheet"),
    Device("A100", r"\bA100\b", 19.5, 312.0, "NVIDIA A100 datasheet"),
    Device("L4", r"\bL4\b", 30.3, 121.0, "NVIDIA L4 datasheet (half of the sparse figure)"),
    Device("L40", r"\bL40\b", 90.5, 181.05, "NVIDIA L40 datasheet"),
    Device("L40S", r"\bL40S\b", 91.6, 362.05, "NVIDIA L40S datasheet"),
    Device("H100 PCIe", r"H100 PCIe", 51.0, 756.0, "NVIDIA H100 datasheet (half of sparse)"),
    Device("H100 SXM", r"H100(?! PCIe| NVL)", 67.0, 989.0, "NVIDIA H100 datasheet (half of sparse)"),
    Device("H200 SXM", r"\bH200\b(?! NVL)", 67.0, 989.0, "NVIDIA H200 datasheet (half of sparse)"),
    Device("RTX 3090", r"RTX 3090(?! Ti)", 35.6, 71.0, "NVIDIA Ampere GA102 whitepaper, table 9"),
    Device("RTX 4090", r"RTX 4090(?! D)", 82.6, 165.2, "NVIDIA Ada whitepaper, appendix A"),
)


def find_device(gpu_name: str | None) -> Device | None:
    """The datasheet of the GPU that CUDA calls ``gpu_name``, None where it is not in the table."""
    if gpu_name is None:
        return None
    return next((device for device in DEVICES if re.search(device.pattern, gpu_name)), None)


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
