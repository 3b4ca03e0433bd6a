"""Device and number format that the model runs in, and whether this CPU has it; torch is not imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

from litmeter.errors import ParamsError
from litmeter.params import Params, Precision, load_params

if TYPE_CHECKING:
    import torch

PRECISIONS: tuple[str, ...] = get_args(Precision)
WITHOUT_BFLOAT16 = "this CPU has no instructions for bfloat16"
CAPS = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")
"""Values of oneDNN's ONEDNN_MAX_CPU_ISA that leave none of these instructions."""

BLOCKING = False
"""Whether a thread sleeps while it waits for a GPU, instead of spinning, which counts as CPU time. Off until
a measurement on a GPU says that it helps: ``python -m studies.gpu``."""
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
"""Parts of the messages of torch on a CPU, of CUDA and torch on a GPU, and of cuBLAS and cuDNN."""


def params_on(machine: Mapping[str, Any]) -> tuple[Params, str]:
    """params.yaml with what ``auto`` stands for on a machine (metrics/machine.json), and its device."""
    params = load_params()
    device = resolve_device(params.device, machine["gpu"] is not None)
    return params.on(lambda: half_is_native(machine, device)), device


def half_is_native(machine: Mapping[str, Any], device: str) -> bool:
    """Whether ``device`` of a machine (metrics/machine.json) has instructions for half precision."""
    return device != "cpu" or bool(machine["bfloat16"])


def resolve_device(device: str, cuda_available: bool) -> str:
    """``cpu`` or ``cuda``, for the ``device`` of params.yaml; raise ParamsError if there is no CUDA."""
    if device == "auto":
        return "cuda" if cuda_available else "cpu"
    if device == "cuda" and not cuda_available:
        raise ParamsError("device: got 'cuda', and torch finds no CUDA device; allowed: auto or cpu")
    return device


def check_precision(precision: str, device: str, key: str = "serve.precision") -> None:
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

    int8 runs on every CPU, if not faster than float32 on one without instructions for it (VNNI, AMX).
    """
    return WITHOUT_BFLOAT16 if (dtype, device) == ("bfloat16", "cpu") and not has_bfloat16() else None


def has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16, as far as oneDNN may use it.

    OpenVINO lists it for CPUs that only convert to it, too (AVX-NE-CONVERT); torch's own check accepts those
    with AVX-512 that have none.
    """
    import openvino

    from litmeter.system.machine import cpu_flags

    listed = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    flags = cpu_flags()
    computes = not flags or any("bf16" in flag for flag in flags)
    return listed and computes and os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() not in CAPS


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done all that this thread gave it to do; a CPU always has."""
    if device.type != "cuda":
        return
    import torch

    if BLOCKING:
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record()
        event.synchronize()
    else:
        torch.cuda.synchronize(device)


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that the device's memory does not suffice, whatever its type."""
    return any(part in str(error) for part in OUT_OF_MEMORY)


def end_if_sticky(error: BaseException) -> None:
    """End this process where all that it asks of its GPU fails from now on, as after an illegal access.

    Otherwise a worker that fails at once takes most requests.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.AcceleratorError) and not lacks_memory(error):
        sys.exit(f"this worker's GPU context is broken, and another takes its place: {error}")
