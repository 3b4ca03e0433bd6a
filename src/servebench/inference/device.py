"""Which device runs the model, and in which number format: known without loading torch."""

from __future__ import annotations

from servebench.errors import ParamsError


def resolve_device(device: str, cuda_available: bool) -> str:
    """``cpu`` or ``cuda`` for what params.yaml asks for.

    Raises:
        ParamsError: CUDA was asked for and there is none.
    """
    if device == "auto":
        return "cuda" if cuda_available else "cpu"
    if device == "cuda" and not cuda_available:
        raise ParamsError("device: got 'cuda', and torch finds no CUDA device; allowed: auto or cpu")
    return device


def dtype_name(precision: str, device: str) -> str:
    """torch's name of a precision's number format: half is what the device computes fastest."""
    if precision == "full":
        return "float32"
    return "bfloat16" if device.startswith("cpu") else "float16"
