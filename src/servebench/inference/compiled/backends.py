"""What compiles a model, and runs it: OpenVINO on a CPU, torch's Inductor on a GPU.

OpenVINO keeps the graph with its weights, and makes kernels of it (oneDNN's) as a package is loaded, in a
fraction of a second; it wants no C++ compiler. `studies.compilers` compares the two on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import openvino
import torch

Run = Callable[[torch.Tensor], torch.Tensor]
HINTS = {torch.float32: "f32", torch.bfloat16: "bf16"}
INDUCTOR = {"freezing": True}
"""Weights become constants: folded, packed, and part of the package."""


class CannotCompileError(Exception):
    """This machine has no way to compile such a model."""


def compile_package(model: torch.nn.Module, example: torch.Tensor, dtype: torch.dtype, path: Path) -> None:
    """Write a package of ``model`` for batches like ``example``, computing in ``dtype``.

    Args:
        model: on a GPU in ``dtype``; on a CPU in float32, which OpenVINO casts itself.

    Raises:
        CannotCompileError: the CPU has no instructions for ``dtype``.
    """
    with torch.no_grad():
        exported = torch.export.export(model, (example,))
        if example.is_cuda:
            torch._inductor.aoti_compile_and_package(
                exported, package_path=str(path), inductor_configs=INDUCTOR
            )
            return
    core = openvino.Core()
    if dtype == torch.bfloat16 and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise CannotCompileError("this CPU has no instructions for bfloat16")
    converted = openvino.convert_model(exported)
    converted.reshape(list(example.shape))  # static, as its own conversion leaves the batch size open
    compiled = core.compile_model(converted, "CPU", options(dtype))
    path.write_bytes(compiled.export_model().getvalue())


def load_package(path: Path, dtype: torch.dtype, device: torch.device) -> Run:
    """The model in a package, which takes batches of the one size that it was compiled for."""
    if device.type == "cuda":
        loaded: Run = torch._inductor.aoti_load_package(str(path))
        return loaded
    compiled = openvino.Core().import_model(path.read_bytes(), "CPU", options(dtype))
    request = compiled.create_infer_request()

    def run(batch: torch.Tensor) -> torch.Tensor:
        # Channels first, as OpenVINO takes its input; the output's memory is used again by the next run.
        [logits] = request.infer([batch.contiguous().numpy()], share_inputs=True).values()
        return torch.from_numpy(logits)

    return run


def options(dtype: torch.dtype) -> dict[str, object]:
    """One thread, as several workers share the cores, and none of them tied to one."""
    return {
        "INFERENCE_PRECISION_HINT": HINTS[dtype],
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
