"""Cost of the model, peaks of the device, and the rates that both allow in theory.

The roofline is that of Williams, Waterman and Patterson (2009): arithmetic or memory, whichever is slower. A
batch of b images takes at least the longer of b x FLOPs / peak and the time to move its bytes: the weights
once per batch, and for each image the activations that convolutions and matrix products read and write, as
far as one exceeds the last cache. The operators between them (normalisation, activation functions) are
assumed to be fused.

Datasheets' peaks are dense (without sparsity). ``full`` is FP32 on the CUDA cores, ``half`` FP16 on the
tensor cores with FP32 accumulation. TF32 is neither: it has float32's range and FP16's precision, and the
server switches it off.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Collection
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from io import StringIO
from operator import itemgetter
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from litmeter.model.graph import GraphModel, converted, operators
from litmeter.system.imports import lean_import

get_model_complexity_info = lean_import("ptflops").get_model_complexity_info  # it imports timm

BACKEND = "aten"
"""ptflops' backend that counts the operators that run. Its other one, ``pytorch``, hooks modules:
it misses functional calls, and is 3% lower on the default model."""
BATCH_SIZES = tuple(2**k for k in range(9))
BYTES_PER_NUMBER = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
COUNTED_OPERATORS = {
    getattr(torch.ops.aten, name).default for name in ("convolution", "addmm", "mm", "bmm", "baddbmm")
}
"""Operators whose inputs and outputs count as memory traffic."""


@dataclass(frozen=True)
class Cost:
    """Cost of one forward pass of one image.

    Attributes:
        parameters: number of weights and biases; of a graph, of the weights that are multiplied.
        macs: multiply-accumulates of convolutions and matrix products.
        torch_flops: FLOPs by torch's own counter, as a check; None of a graph.
        counted_by: what has counted the MACs.
    """

    parameters: int
    macs: int
    torch_flops: int | None
    counted_by: str

    @property
    def flops(self) -> int:
        """Floating-point operations: a multiply-accumulate is one multiplication and one addition."""
        return 2 * self.macs


def cost_of(model: torch.nn.Module, image_size: int) -> Cost | None:
    """Cost of ``model`` for a square image of ``image_size`` pixels, by ptflops, else by OpenVINO's graph.

    None where neither finds an operation to count.
    """
    shape = (3, image_size, image_size)
    image = torch.zeros(1, *shape)
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # a traceback, where it fails
        macs, parameters = get_model_complexity_info(
            model, shape, print_per_layer_stat=False, as_strings=False, backend=BACKEND
        )
    if macs and parameters:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(image)
        flops = int(counter.get_total_flops())
        return Cost(int(parameters), int(macs), flops, f"ptflops, backend {BACKEND}")
    with suppress(Exception):  # torch and OpenVINO raise many for a model that they cannot convert
        graph = model.graph(image_size) if isinstance(model, GraphModel) else converted(model.eval(), image)
        if found := list(operators(graph, image_size)):
            weights, macs = sum(one.weights for one in found), sum(one.macs for one in found)
            return Cost(weights, macs, None, "OpenVINO's graph")
    return None


class Traffic(NamedTuple):
    """Numbers that one forward pass moves: all parameters once, and those of each activation for an image."""

    weights: int
    activations: tuple[int, ...]


class _ActivationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects the activations of COUNTED_OPERATORS while a model runs."""

    def __init__(self, weights: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weights = weights
        self.activations: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in COUNTED_OPERATORS:
            tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
            moved = [tensor for tensor in tensors if tensor.data_ptr() not in self.weights]
            self.activations += [tensor.numel() for tensor in [*moved, out]]
        return out


def traffic_of(model: torch.nn.Module, image_size: int) -> Traffic:
    """Memory traffic of one forward pass of one square image, at least."""
    if isinstance(model, GraphModel):
        found = list(operators(model.graph(image_size), image_size))
        moved = tuple(numbers for one in found for numbers in one.activations)
        return Traffic(sum(one.weights for one in found), moved)
    parameters = list(model.parameters())
    with torch.no_grad(), _ActivationCounter({p.data_ptr() for p in parameters}) as counter:
        model.eval()(torch.zeros(1, 3, image_size, image_size))
    return Traffic(sum(p.numel() for p in parameters), tuple(counter.activations))


class Roofline(NamedTuple):
    """The roofline of one precision.

    Attributes:
        rps: images per second at the best of BATCH_SIZES.
        bound: what limits the rate there, ``compute`` or ``memory``.
        batch_size: the smallest that is compute-bound, None where all are memory-bound.
    """

    rps: float
    bound: str
    batch_size: int | None


def roofline(
    flops: int, traffic: Traffic, dtype: str, peak_flops: float, bandwidth: float, cache_bytes: int
) -> Roofline:
    """The roofline for ``dtype`` (torch's name); ``peak_flops`` in FLOP/s, ``bandwidth`` in bytes/s."""
    number_bytes = BYTES_PER_NUMBER[dtype]

    def compute_s(batch_size: int) -> float:
        return batch_size * flops / peak_flops

    def memory_s(batch_size: int) -> float:
        sizes = (number_bytes * batch_size * numbers for numbers in traffic.activations)
        moved_bytes = number_bytes * traffic.weights + sum(max(0, size - cache_bytes) for size in sizes)
        return moved_bytes / bandwidth

    def rps(batch_size: int) -> float:
        return batch_size / max(compute_s(batch_size), memory_s(batch_size))

    best = max(BATCH_SIZES, key=rps)
    compute_bound = [size for size in BATCH_SIZES if compute_s(size) >= memory_s(size)]
    bound = "compute" if best in compute_bound else "memory"
    return Roofline(rps(best), bound, min(compute_bound, default=None))


class Device(NamedTuple):
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
    return next((device for device in DEVICES if re.search(device.pattern, gpu_name or "")), None)


MATRIX_SIZES = (512, 1024, 2048)
"""Sides of the square matrices; which is fastest depends on caches and device."""
COPY_BYTES = 2**28
"""Larger than any cache."""
LAYERS, LAYER_BATCHES = 4, (1, 8)
"""Convolutions of the model that are timed, those with most arithmetic, and in which batches."""
MEASURE_S, LAYER_S = 0.5, 0.1
LONGEST_PRODUCT_S = 1.0
"""Larger matrices are not tried: without instructions for a format, one product takes minutes."""


def measured_peak_flops(device: str, dtype: str) -> float:
    """FLOP/s of the fastest square matrix product of several sizes, all cores, best of many runs.

    A product of n x n matrices is 2 n^3 FLOPs; ``dtype`` is torch's name of the number format.
    """
    peak = 0.0
    for size in MATRIX_SIZES:
        if peak and 2 * size**3 / peak > LONGEST_PRODUCT_S:
            break
        peak = max(peak, _matrix_product_flops(device, getattr(torch, dtype), size))
    return peak


def convolution_peak_flops(model: torch.nn.Module, image_size: int, device: str, dtype: str) -> float:
    """FLOP/s of the fastest of the model's own convolutions; 0 for a model without any."""
    seen: dict[tuple[Any, ...], tuple[int, torch.nn.Conv2d, torch.Size]] = {}

    def note(layer: torch.nn.Conv2d, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        flops = 2 * output[0].numel() * layer.weight[0].numel()
        seen[layer.weight.shape, layer.stride, inputs[0].shape] = (flops, layer, inputs[0].shape[1:])

    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    with torch.inference_mode():
        model.eval()(torch.zeros(1, 3, image_size, image_size))
    for hook in hooks:
        hook.remove()
    peak, number_format = 0.0, getattr(torch, dtype)
    for flops, layer, shape in sorted(seen.values(), key=itemgetter(0))[-LAYERS:]:
        own = copy.deepcopy(layer).to(device, number_format)
        for size in LAYER_BATCHES:
            images = torch.randn(size, *shape, device=device).to(number_format)
            with torch.inference_mode():
                seconds = _shortest_s(partial(own, images), device, LAYER_S)
            peak = max(peak, size * flops / seconds)
    return peak


FLOPS_PER_CYCLE = {
    "full": {"avx512f": 64, "avx2": 32, "asimd": 16},
    "half": {"amx_bf16": 1024, "avx512_bf16": 128},
    "int8": {"amx_int8": 2048, "avx512_vnni": 256},
}
"""Of a core, by precision and instruction set, the widest first: two units that multiply and add in each
cycle, or one of tiles."""


def instruction_peak_flops(
    precision: str, flags: Collection[str], cores: int, clock_hz: float
) -> float | None:
    """FLOP/s that instructions allow at most at this clock; None where the instructions are not known."""
    cycles = (flops for flag, flops in FLOPS_PER_CYCLE[precision].items() if flag in flags)
    widest = next(cycles, None)
    return None if widest is None else widest * cores * clock_hz


def cache_bytes(device: str) -> int:
    """Size of the last cache; in a virtual machine that of the host; 0 where it is not known."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).L2_cache_size)
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("*/size")]
    return max((1024 * int(size.removesuffix("K")) for size in sizes if size.endswith("K")), default=0)


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
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(left)
    return 2 * size**3 / _shortest_s(lambda: torch.mm(left, right, out=out), device)


def _shortest_s(operation: Callable[[], object], device: str, within_s: float = MEASURE_S) -> float:
    """Shortest wall time of ``operation`` among its runs within ``within_s``, after a warm-up run."""

    def run_s() -> float:
        start = perf_counter()
        operation()
        if device == "cuda":
            torch.cuda.synchronize()
        return perf_counter() - start

    run_s()
    started, shortest = perf_counter(), float("inf")
    while perf_counter() - started < within_s:
        shortest = min(shortest, run_s())
    return shortest
