"""The device that a model runs on; this module does not import torch at its top."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from litmeter.errors import ParamsError

if TYPE_CHECKING:
    import torch

BLOCKING = False
"""Whether a thread that waits for a GPU sleeps rather than spins, which counts as CPU time. Off until a
measurement on a GPU shows a benefit: ``python -m studies.gpu``."""
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
"""Parts of messages: torch on a CPU; CUDA and torch on a GPU; cuBLAS and cuDNN."""


def resolve_device(device: str, cuda_available: bool) -> str:
    """``cpu`` or ``cuda`` for the ``device`` of params.yaml; raise ParamsError without the CUDA asked for."""
    if device == "auto":
        return "cuda" if cuda_available else "cpu"
    if device == "cuda" and not cuda_available:
        raise ParamsError("device: got 'cuda', and torch finds no CUDA device; allowed: auto or cpu")
    return device


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has finished this thread's work; a CPU always has."""
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
    """Whether an error's message, whatever its type, tells that the device lacks memory."""
    return any(part in str(error) for part in OUT_OF_MEMORY)


def end_if_sticky(error: BaseException) -> None:
    """End this process if its GPU context is broken, as after an illegal memory access.

    Otherwise this worker, which fails at once, would take most requests.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.AcceleratorError) and not lacks_memory(error):
        sys.exit(f"this worker's GPU context is broken, and another takes its place: {error}")
