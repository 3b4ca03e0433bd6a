"""The roofline of Williams, Waterman and Patterson (2009): arithmetic or memory, whichever is slower.

A batch of b images takes at least the longer of b x FLOPs / peak and the time to move its bytes: the
weights once per batch, and for each image the activations that convolutions and matrix products read
and write. What lies between them (normalisation, activation functions) is taken to be fused, and
caches are taken to hold nothing, so the memory's share is that of a plain, uncached run.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

BATCH_SIZES = tuple(2**k for k in range(9))
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
COPY_BYTES = 2**28
"""Larger than any cache."""
COPY_SECONDS = 0.5
HEAVY = {
    torch.ops.aten.convolution.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.mm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.baddbmm.default,
}
"""Operators whose inputs and outputs have to move."""


@dataclass(frozen=True)
class Traffic:
    """Numbers that one forward pass moves: parameters once, activations for each image."""

    weights: int
    activations: int


@dataclass(frozen=True)
class Roofline:
    """The bound of one precision.

    Attributes:
        rps: images per second at the best of BATCH_SIZES.
        bound: what limits there, ``compute`` or ``memory``.
        batch_size: the smallest that is bound by compute, None where memory always is.
    """

    rps: float
    bound: str
    batch_size: int | None


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the activations of HEAVY operators while a model runs."""

    def __init__(self, weights: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weights = weights
        self.activations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in HEAVY:
            moved = [
                arg for arg in args if isinstance(arg, torch.Tensor) and arg.data_ptr() not in self.weights
            ]
            self.activations += sum(tensor.numel() for tensor in [*moved, out])
        return out


def traffic_of(model: torch.nn.Module, image_size: int) -> Traffic:
    """What one forward pass of one square image moves at least."""
    parameters = list(model.parameters())
    with torch.no_grad(), _Counter({p.data_ptr() for p in parameters}) as counter:
        model.eval()(torch.zeros(1, 3, image_size, image_size))
    return Traffic(sum(p.numel() for p in parameters), counter.activations)


def roofline(flops: int, traffic: Traffic, dtype: str, peak_flops: float, bandwidth: float) -> Roofline:
    """The bound for ``dtype`` (torch's name); ``peak_flops`` in FLOP/s, ``bandwidth`` in bytes/s."""
    size = BYTES[dtype]

    def seconds(batch: int) -> tuple[float, float]:
        moved = size * (traffic.weights + batch * traffic.activations)
        return batch * flops / peak_flops, moved / bandwidth

    best = max(BATCH_SIZES, key=lambda batch: batch / max(seconds(batch)))
    compute, memory = seconds(best)
    fitting = [batch for batch in BATCH_SIZES if seconds(batch)[0] >= seconds(batch)[1]]
    return Roofline(
        rps=best / max(compute, memory),
        bound="compute" if compute >= memory else "memory",
        batch_size=min(fitting, default=None),
    )


def measured_bandwidth(device: str) -> float:
    """Bytes per second, read and written, of the fastest of many copies too large for a cache."""
    source = torch.ones(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def once() -> float:
        start = perf_counter()
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        return perf_counter() - start

    once()
    opened, fastest = perf_counter(), float("inf")
    while perf_counter() - opened < COPY_SECONDS:
        fastest = min(fastest, once())
    return 2 * COPY_BYTES / fastest
