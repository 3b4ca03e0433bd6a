"""Cost of the model, and the rates that its cost and the machine's peaks allow in theory.

The roofline is that of Williams, Waterman and Patterson (2009): arithmetic or memory, whichever is slower. A
batch of b images takes at least b x FLOPs / peak, and at least the time to move its bytes: the weights once
for the batch, at the rate for so many bytes; and for each image the activations that convolutions and matrix
products read and write, as far as an activation exceeds all last-level caches. Other operators
(normalisation, activation functions) are assumed to be fused.
"""

from __future__ import annotations

from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from io import StringIO
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from litmeter.classifier.model.graph import GraphModel, converted, operators
from litmeter.system.imports import lean_import

get_model_complexity_info = lean_import("ptflops").get_model_complexity_info  # it imports timm

BACKEND = "aten"
"""ptflops' backend that counts the operators that run. The other backend, ``pytorch``, misses functional
calls: it counts 3% less on the default model."""
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
        parameters: number of weights and biases; for a graph, only of weights that are multiplied.
        macs: multiply-accumulates of convolutions and matrix products.
        torch_flops: FLOPs by torch's counter, as a check; None for a graph.
        counted_by: what counted the MACs.
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
    """Cost of ``model`` for a square image, by ptflops or OpenVINO's graph; None if neither counts it."""
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
    with suppress(Exception):  # of many types, for a model that torch or OpenVINO cannot convert
        graph = model.graph(image_size) if isinstance(model, GraphModel) else converted(model.eval(), image)
        if found := list(operators(graph, image_size)):
            weights, macs = sum(one.weights for one in found), sum(one.macs for one in found)
            return Cost(weights, macs, None, "OpenVINO's graph")
    return None


class Traffic(NamedTuple):
    """How many numbers a forward pass moves: all weights, and each activation of an image."""

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
    """The least memory traffic of a forward pass of one square image."""
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
        batch_size: the smallest that is compute-bound; None where all are memory-bound.
    """

    rps: float
    bound: str
    batch_size: int | None


def roofline(
    flops: int,
    traffic: Traffic,
    dtype: str,
    peak_flops: float,
    bandwidth: float,
    weights_bandwidth: float,
    cache_bytes: int,
) -> Roofline:
    """The roofline for ``dtype`` (torch's name).

    Args:
        peak_flops: FLOP/s.
        bandwidth: bytes/s of activations beyond the caches.
        weights_bandwidth: bytes/s of the weights.
    """
    number_bytes = BYTES_PER_NUMBER[dtype]

    def compute_s(batch_size: int) -> float:
        return batch_size * flops / peak_flops

    def memory_s(batch_size: int) -> float:
        sizes = (number_bytes * batch_size * numbers for numbers in traffic.activations)
        beyond_bytes = sum(max(0, size - cache_bytes) for size in sizes)
        return number_bytes * traffic.weights / weights_bandwidth + beyond_bytes / bandwidth

    def rps(batch_size: int) -> float:
        return batch_size / max(compute_s(batch_size), memory_s(batch_size))

    best = max(BATCH_SIZES, key=rps)
    compute_bound = [size for size in BATCH_SIZES if compute_s(size) >= memory_s(size)]
    bound = "compute" if best in compute_bound else "memory"
    return Roofline(rps(best), bound, min(compute_bound, default=None))
