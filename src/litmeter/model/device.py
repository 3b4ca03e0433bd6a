"""Device and number format that the model runs in, and whether this CPU has it; torch is not imported."""

from __future__ import annotations

from typing import get_args

from litmeter.errors import ParamsError
from litmeter.params import Precision

PRECISIONS: tuple[str, ...] = get_args(Precision)


def resolve_device(device: str, cuda_available: bool) -> str:
    """``cpu`` or ``cuda``, for the ``device`` of params.yaml; raise ParamsError if there is no CUDA."""
    if device == "auto":
        return "cuda" if cuda_available else "cpu"
    if device == "cuda" and not cuda_available:
        raise ParamsError("device: got 'cuda', and torch finds no CUDA device; allowed: auto or cpu")
    return device


def check_precision(precision: str, device: str, key: str = "serve.precision") -> None:
    """Raise ParamsError, naming ``key`` of params.yaml, where ``device`` does not run ``precision``."""
    allowed = precisions_on(device)
    if precision not in allowed:
        raise ParamsError(f"{key}: got {precision!r}; allowed on {device}: {' or '.join(allowed)}")


def precisions_on(device: str) -> tuple[str, ...]:
    """The precisions that models run in on ``device``."""
    return PRECISIONS if device.startswith("cpu") else PRECISIONS[:2]


def dtype_name(precision: str, device: str) -> str:
    """torch's name of the number format; half is the 16-bit format that the device computes fastest."""
    half = "bfloat16" if device.startswith("cpu") else "float16"
    return {"full": "float32", "half": half, "int8": "int8"}[precision]


def cannot_run_reason(dtype: str, device: str) -> str | None:
    """Why packages that compute in ``dtype`` (torch's name) cannot run on this machine; None if they can.

    int8 runs on every CPU, if not faster than float32 on one without instructions for it (VNNI, AMX).
    """
    if dtype != "bfloat16" or device != "cpu":
        return None
    import openvino

    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return None if "BF16" in capabilities else "this CPU has no instructions for bfloat16"
