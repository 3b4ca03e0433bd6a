"""The machine's peaks: arithmetic, by datasheet or measured, and memory bandwidth.

Datasheet peaks are dense (without sparsity): ``full`` is FP32 on the CUDA cores, ``half`` FP16 on the
tensor cores with FP32 accumulation. TF32, with float32's range and FP16's precision, is neither; the server
switches it off.
"""

from __future__ import annotations

import copy
import json
import math
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from operator import attrgetter, itemgetter
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from litmeter.system.device import wait_for
from litmeter.system.memory import available_memory

if TYPE_CHECKING:
    import openvino


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
    """The datasheet of the GPU with CUDA's name ``gpu_name``, if DEVICES has it."""
    return next((device for device in DEVICES if re.search(device.pattern, gpu_name or "")), None)


MATRIX_SIZES = {"cpu": (512, 1024, 2048), "cuda": (2048, 4096, 8192)}
"""Sides of square matrices by device; the fastest depends on the caches."""
LAUNCHES = {"cpu": 1, "cuda": 8}
"""Runs that are timed together: a launch on a GPU takes as long as a small product."""
LAYERS, LAYER_BATCHES = 4, (1, 8)
"""Number of the model's convolutions timed in torch (those with most arithmetic), and their batches."""
CHANNELS, ROWS = (512, 1024), 512
"""Columns and rows of OpenVINO's products."""
CONVOLUTIONS, CONVOLUTION_BATCH = ((3, 256, 14), (3, 512, 7), (1, 512, 14)), 4
"""OpenVINO's convolutions: side of the kernel, channels, side of the image."""
ROUNDS, ROUND_S = 4, 0.05
"""Runs of each operation, in turn, so that a slow time of the machine slows down all."""
LONGEST_S = 1.0
"""Operations that would take longer at their library's best speed so far are not timed: a product in a format
without instructions takes minutes."""


class Operation(NamedTuple):
    """A timed matrix product or convolution: library, number format (torch's name) and FLOPs."""

    library: str
    dtype: str
    flops: int
    run: Callable[[], object]


@torch.inference_mode()
def measured_peaks(
    model: torch.nn.Module | None, image_size: int, device: str, dtypes: Sequence[str], cores: int
) -> dict[str, float]:
    """FLOP/s of the fastest operation in each of ``dtypes`` (torch's names), on all ``cores``, best of many.

    A peak bounds a rate only if no serving library is faster. So the operations are matrix products and the
    model's convolutions in torch, and on a CPU also products and convolutions of many channels in OpenVINO,
    where that is installed. FLOPs are counted as for models: with those at image borders, which a library
    leaves out.
    """
    torch.set_num_threads(cores)
    layers = [] if model is None else _largest_convolutions(model, image_size)
    operations = [one for dtype in dtypes for one in _torch_operations(layers, device, dtype)]
    if device == "cpu" and find_spec("openvino"):
        known = (dtype for dtype in dtypes if dtype != "float16")
        operations += [one for dtype in known for one in _openvino_operations(dtype, cores)]
    return fastest_flops(operations, device)


def fastest_flops(operations: Iterable[Operation], device: str) -> dict[str, float]:
    """FLOP/s of the fastest operation of each number format; all operations take turns."""
    peaks: dict[tuple[str, str], float] = {}

    def run(operation: Operation, within_s: float) -> None:
        flops, key = operation.flops / _shortest_s(operation.run, device, within_s), operation[:2]
        peaks[key] = max(peaks.get(key, 0.0), flops)

    timed = []
    for operation in sorted(operations, key=attrgetter("flops")):
        if operation.flops <= LONGEST_S * peaks.get(operation[:2], math.inf):
            run(operation, 0.0)
            timed.append(operation)
    for operation in ROUNDS * timed:
        run(operation, ROUND_S)
    dtypes = {dtype for _, dtype in peaks}
    return {dtype: max(flops for (_, own), flops in peaks.items() if own == dtype) for dtype in dtypes}


def _torch_operations(
    layers: Sequence[tuple[int, torch.nn.Conv2d, torch.Size]], device: str, dtype: str
) -> Iterator[Operation]:
    """Square matrix products, and convolutions in batches, which torch does not have in int8."""
    number_format = getattr(torch, dtype)
    for size in MATRIX_SIZES[device]:
        yield Operation("torch", dtype, 2 * size**3, _torch_product(device, number_format, size))
    for flops, layer, shape in layers if number_format.is_floating_point else ():
        own = copy.deepcopy(layer).to(device, number_format)
        for size in LAYER_BATCHES:
            images = torch.randn(size, *shape, device=device).to(number_format)
            yield Operation("torch", dtype, size * flops, partial(own, images))


def _torch_product(device: str, dtype: torch.dtype, size: int) -> Callable[[], object]:
    if dtype == torch.int8:
        integers = [torch.randint(-128, 128, (size, size), dtype=dtype, device=device) for _ in range(2)]
        # The product with int32 results has no public name (torch.ops.aten lists it).
        return partial(torch._int_mm, *integers)
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return partial(torch.mm, left, right, out=torch.empty_like(left))


def _largest_convolutions(
    model: torch.nn.Module, image_size: int
) -> list[tuple[int, torch.nn.Conv2d, torch.Size]]:
    """The LAYERS with most arithmetic: FLOPs per image, layer, and input shape; none for a graph."""
    seen: dict[tuple[Any, ...], tuple[int, torch.nn.Conv2d, torch.Size]] = {}

    def note(layer: torch.nn.Conv2d, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        flops = 2 * output[0].numel() * layer.weight[0].numel()
        seen[layer.weight.shape, layer.stride, inputs[0].shape] = (flops, layer, inputs[0].shape[1:])

    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    model.eval()(torch.zeros(1, 3, image_size, image_size))
    for hook in hooks:
        hook.remove()
    return sorted(seen.values(), key=itemgetter(0))[-LAYERS:]


def _openvino_operations(dtype: str, cores: int) -> Iterator[Operation]:
    """Products and convolutions that run like packages: one thread each, one per core at once."""
    import openvino

    from litmeter.classifier.model.compiled.model import openvino_options

    options = openvino_options(getattr(torch, dtype), cores) | {"NUM_STREAMS": cores}
    shapes: list[tuple[tuple[int, ...], tuple[int, ...]]]
    shapes = [((ROWS, channels), (channels, channels)) for channels in CHANNELS]
    shapes += [
        ((CONVOLUTION_BATCH, channels, side, side), (channels, channels, kernel, kernel))
        for kernel, channels, side in CONVOLUTIONS
    ]
    for images, weights in shapes:
        compiled = openvino.Core().compile_model(_graph(images, weights, dtype), "CPU", options)
        requests = [compiled.create_infer_request() for _ in range(cores)]
        for request in requests:
            request.set_input_tensor(openvino.Tensor(_random(images)))
        flops = 2 * math.prod(images) * math.prod(weights) // weights[1]
        yield Operation("openvino", dtype, cores * flops, partial(_run_at_once, requests))


def _graph(images: Sequence[int], weights: Sequence[int], dtype: str) -> openvino.Model:
    """The product of (rows, channels) with (channels, channels), or a convolution that keeps the size."""
    import openvino
    from openvino import opset13 as opset

    def numbers(node: openvino.Node, low: float, high: float, levels: int) -> openvino.Node:
        limits = [np.float32(low), np.float32(high)] * 2
        return opset.fake_quantize(node, *limits, levels) if dtype == "int8" else node

    parameter = opset.parameter(images, np.float32)
    factors = numbers(parameter, 0.0, 1.0, 256), numbers(opset.constant(_random(weights)), -1.0, 1.0, 255)
    if len(weights) == 2:
        result = opset.matmul(*factors, False, False)
    else:
        border = [weights[-1] // 2] * 2
        result = opset.convolution(*factors, [1, 1], border, border, [1, 1])
    return openvino.Model([numbers(opset.relu(result), 0.0, float(weights[1]), 256)], [parameter])


def _random(shape: Sequence[int]) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).random(shape, np.float32)


def _run_at_once(requests: Sequence[Any]) -> None:
    for request in requests:
        request.start_async()
    for request in requests:
        request.wait()


FLOPS_PER_CYCLE = {
    "full": {"avx512f": 64, "avx2": 32, "asimd": 16},
    "half": {"amx_bf16": 1024, "avx512_bf16": 128},
    "int8": {"amx_int8": 2048, "avx512_vnni": 256},
}
"""FLOPs per core and cycle, by precision and instruction set, the widest first: two multiply-add units, or a
tile unit."""


def instruction_peak_flops(
    precision: str, flags: Collection[str], cores: float, clock_hz: float
) -> float | None:
    """Most FLOP/s of the instructions in ``flags`` at this clock; None without a known instruction set."""
    cycles = (flops for flag, flops in FLOPS_PER_CYCLE[precision].items() if flag in flags)
    widest = next(cycles, None)
    return None if widest is None else widest * cores * clock_hz


def cache_bytes(device: str) -> int:
    """Total size of all last-level caches (in a virtual machine, the host's); 0 if unknown."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).L2_cache_size)
    return last_caches_bytes(Path("/sys/devices/system/cpu"))


def last_caches_bytes(cpus: Path) -> int:
    """Total size of the highest level's caches in Linux's folder ``cpus``; shared caches count once."""
    caches = {}
    for folder in cpus.glob("cpu[0-9]*/cache/index[0-9]*"):
        with suppress(OSError):  # some hypervisors omit some files
            names = ("level", "shared_cpu_list", "size")
            level, shared, size = ((folder / name).read_text().strip() for name in names)
            caches[int(level), shared] = 1024 * int(size.removesuffix("K"))
    last = max((level for level, _ in caches), default=0)
    return sum(size for (level, _), size in caches.items() if level == last)


CACHES, SMALLEST_BUFFER_BYTES = 4, 2**28
"""A buffer that exceeds the caches: a multiple of all last-level caches together, and its least size."""
BUFFERS_SHARE = 1 / 4
"""Most of the free memory that two such buffers take."""
READ_BYTES = 2**26
"""Least bytes per call that reads, a small buffer repeatedly: the call itself takes microseconds."""
MEMORY_S = 0.3


def buffer_bytes(cache: int, free: int) -> int:
    """Size of a buffer that exceeds ``cache`` bytes of caches, as far as the ``free`` memory allows."""
    return min(max(CACHES * cache, SMALLEST_BUFFER_BYTES), int(BUFFERS_SHARE * free / 2))


def measured_bandwidth(device: str) -> float:
    """Bytes per second of the memory: copying or only reading, whichever is faster."""
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else available_memory()
    size = buffer_bytes(cache_bytes(device), free)
    return max(measured_copying(device, size), measured_reading(device, size))


def measured_copying(device: str, size: int) -> float:
    """Bytes per second, read and written, of the fastest of many copies of ``size`` bytes."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / _shortest_s(lambda: target.copy_(source), device, MEMORY_S)


COLUMNS = 4096
"""Of the matrix whose product with a vector reads it."""


def measured_reading(device: str, size: int) -> float:
    """Bytes per second of reading the same ``size`` bytes repeatedly, from a cache if they fit.

    By a sum, or by the product of a matrix and a vector, which is what generating a token mostly is.
    """
    buffer = torch.ones(max(1024, size // 4), dtype=torch.float32, device=device)
    read = buffer.expand(max(1, READ_BYTES // buffer.nbytes), -1)
    matrix = buffer[: len(buffer) // COLUMNS * COLUMNS].view(-1, COLUMNS)
    product = partial(torch.mv, matrix, torch.ones(COLUMNS, device=device))
    rates = [4 * read.numel() / _shortest_s(read.sum, device, MEMORY_S)]
    if len(read) == 1:
        rates.append(matrix.nbytes / _shortest_s(product, device, MEMORY_S))
    return max(rates)


def _shortest_s(operation: Callable[[], object], device: str, within_s: float) -> float:
    """Shortest wall time of ``operation`` in runs for ``within_s``, at least one, after a warm-up.

    On a GPU, the mean of LAUNCHES consecutive runs.
    """
    launches = LAUNCHES[device]

    def run_s() -> float:
        start = perf_counter()
        for _ in range(launches):
            operation()
        wait_for(torch.device(device))
        return (perf_counter() - start) / launches

    run_s()
    started, shortest = perf_counter(), run_s()
    while perf_counter() - started < within_s:
        shortest = min(shortest, run_s())
    return shortest


def main() -> None:
    """Measure what the first line of input asks for.

    Print FLOP/s by dtype, bytes/s of reading each size, and FLOP/s of the datasheet by dtype (int8: not
    known), or null.
    """
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = json.loads(sys.stdin.readline())
    flops = measured_peaks(None, 0, job["device"], job["dtypes"], job["cores"])
    reading = [measured_reading(job["device"], size) for size in job["sizes"]]
    known = find_device(torch.cuda.get_device_name() if job["device"] == "cuda" else None)
    datasheet = known and {
        "float32": 1e12 * known.full_tflops,
        **dict.fromkeys(("float16", "bfloat16"), 1e12 * known.half_tflops),
    }
    print(json.dumps([flops, reading, datasheet]), file=answer, flush=True)


if __name__ == "__main__":
    main()
