"""The device that a model runs on, and what torch does there; torch is not imported."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from litmeter.errors import ParamsError

if TYPE_CHECKING:
    import torch

BLOCKING = False
"""Whether a thread sleeps while it waits for a GPU, instead of spinning, which counts as CPU time. Off until
a measurement on a GPU says that it helps: ``python -m studies.gpu``."""
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
"""Parts of the messages of torch on a CPU, of CUDA and torch on a GPU, and of cuBLAS and cuDNN."""


def resolve_device(device: str, cuda_available: bool) -> str:
    """``cpu`` or ``cuda``, for the ``device`` of params.yaml; raise ParamsError if there is no CUDA."""
    if device == "auto":
        return "cuda" if cuda_available else "cpu"
    if device == "cuda" and not cuda_available:
        raise ParamsError("device: got 'cuda', and torch finds no CUDA device; allowed: auto or cpu")
    return device


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
