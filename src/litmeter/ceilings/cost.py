"""Cost of the model: parameters, and MACs and FLOPs of one image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from litmeter.errors import ModelError
from litmeter.system.without_compiler import without_compiler

try:
    with without_compiler():  # ptflops imports timm
        from ptflops import get_model_complexity_info
except ImportError:  # a version that needs more of it
    from ptflops import get_model_complexity_info

BACKEND = "aten"
"""ptflops' backend that counts the operators that run. Its other one, ``pytorch``, hooks modules:
it misses functional calls, and is 3% lower on the default model."""
FLOPS_PER_MAC = 2
"""A multiply-accumulate is one multiplication and one addition; ptflops counts MACs."""


@dataclass(frozen=True)
class Cost:
    """Cost of one forward pass of one image.

    Attributes:
        parameters: number of weights and biases.
        macs: multiply-accumulates of convolutions and matrix products, by ptflops.
        torch_flops: FLOPs by torch's own counter, as a check.
    """

    parameters: int
    macs: int
    torch_flops: int

    @property
    def flops(self) -> int:
        """Floating-point operations, two to a MAC."""
        return FLOPS_PER_MAC * self.macs


def cost_of(model: torch.nn.Module, image_size: int) -> Cost:
    """Cost of ``model`` for a square image of ``image_size`` pixels.

    Raises:
        ModelError: ptflops could not trace the model.
    """
    shape = (3, image_size, image_size)
    macs, parameters = get_model_complexity_info(
        model, shape, print_per_layer_stat=False, as_strings=False, backend=BACKEND
    )
    if not macs or not parameters:
        raise ModelError("ptflops could not count the model's operations; its reason stands above")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    return Cost(int(parameters), int(macs), int(counter.get_total_flops()))
