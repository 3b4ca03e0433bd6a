"""The number formats of the model, and whether this machine computes in them; torch is not imported."""

from __future__ import annotations

import os
from typing import get_args

from litmeter.classifier.model.settings import Precision
from litmeter.errors import ParamsError

PRECISIONS: tuple[str, ...] = get_args(Precision)
WITHOUT_BFLOAT16 = "this CPU has no instructions for bfloat16"
CAPS = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")
"""Values of oneDNN's ONEDNN_MAX_CPU_ISA that forbid the instructions for bfloat16."""


def check_precision(precision: str, device: str, key: str) -> None:
    """Raise ParamsError, naming ``key`` of params.yaml, where ``device`` does not run ``precision``."""
    allowed = ("auto", *precisions_on(device))
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

    int8 runs on every CPU, though no faster than float32 where VNNI and AMX are missing.
    """
    return WITHOUT_BFLOAT16 if (dtype, device) == ("bfloat16", "cpu") and not has_bfloat16() else None


def has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16, and oneDNN is allowed to.

    OpenVINO's list alone does not tell: it has bfloat16 for CPUs that only convert to it (AVX-NE-CONVERT).
    Nor does torch's check, which accepts every AVX-512.
    """
    import openvino

    from litmeter.system.machine import cpu_flags

    listed = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    flags = cpu_flags()
    computes = not flags or any("bf16" in flag for flag in flags)
    return listed and computes and os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() not in CAPS
