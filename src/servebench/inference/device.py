"""Device and number format that the model runs in; this module does not import torch."""

from __future__ import annotations

from servebench.errors import ParamsError

PRECISIONS = ("full", "half")


def resolve_device(device: str, cuda_available: bool) -> str:
    """The device, ``cpu`` or ``cuda``, for the ``device`` of params.yaml.

    Raises:
        ParamsError: CUDA was asked for and there is none.
    """
    if device == "auto":
        return "cuda" if cuda_available else "cpu"
    if device == "cuda" and not cuda_available:
        raise ParamsError("device: got 'cuda', and torch finds no CUDA device; allowed: auto or cpu")
    return device


def dtype_name(precision: str, device: str) -> str:
    """torch's name of the number format; half is the 16-bit format that the device computes fastest."""
    if precision == "full":
        return "float32"
    return "bfloat16" if device.startswith("cpu") else "float16"
