"""The compilers of a model: OpenVINO on a CPU, torch's Inductor on a GPU.

An OpenVINO package holds the graph with its weights; kernels (oneDNN's) are made as it is loaded, in a
fraction of a second, and no C++ compiler is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from mmap import ACCESS_COPY, mmap
from pathlib import Path

import numpy as np
import openvino
import torch

BatchModel = Callable[[torch.Tensor], torch.Tensor]
"""A model as a function: a batch -> logits (N, classes)."""
PRECISION_HINTS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.int8: "f32"}
"""For operators that are not quantised, which are all of them but in int8."""
INDUCTOR_CONFIG = {"freezing": True}
"""Weights become constants: folded, packed, and part of the package."""


def compile_packages(
    model: torch.nn.Module, example: torch.Tensor, paths: Mapping[torch.dtype, Path]
) -> None:
    """Write a package of ``model`` for batches like ``example`` for each number format that it computes in.

    Args:
        model: on a GPU in the one format of ``paths``; on a CPU in float32, which OpenVINO casts itself.
    """
    with torch.no_grad():
        exported = torch.export.export(model, (example,))
        if example.is_cuda:
            [path] = paths.values()
            torch._inductor.aoti_compile_and_package(
                exported, package_path=str(path), inductor_configs=INDUCTOR_CONFIG
            )
            return
    converted = openvino.convert_model(exported)
    for dtype, path in paths.items():
        write_package(converted, example.shape, dtype, path)


def write_package(graph: openvino.Model, shape: Sequence[int], dtype: torch.dtype, path: Path) -> None:
    """Write OpenVINO's package of ``graph`` for batches of this ``shape``, computed in ``dtype``."""
    graph.reshape(list(shape))  # static: the conversion leaves the batch size open
    compiled = openvino.Core().compile_model(graph, "CPU", openvino_options(dtype))
    if compiled.output(0).shape[0] != shape[0]:
        raise ValueError(f"a graph for batches of {shape[0]} answers {compiled.output(0).shape[0]} images")
    path.write_bytes(compiled.export_model().getvalue())


def load_package(path: Path, dtype: torch.dtype, device: torch.device) -> BatchModel:
    """Load the model in a package, which takes batches of the one size that it was compiled for."""
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # full precision means IEEE float32
        loaded: BatchModel = torch._inductor.aoti_load_package(str(path))
        return loaded
    return OpenVinoModel(path, dtype)


class OpenVinoModel:
    """The model in a package of OpenVINO's.

    The package is mapped, so that the weights in it are in memory once for all workers.
    """

    def __init__(self, path: Path, dtype: torch.dtype) -> None:
        with path.open("rb") as file:
            package = np.frombuffer(mmap(file.fileno(), 0, access=ACCESS_COPY), np.uint8)
        # OpenVINO reads the weights where they are, so that this must live as long as the model.
        self._package = openvino.Tensor(package, shared_memory=True)
        compiled = openvino.Core().import_model(self._package, "CPU", openvino_options(dtype))
        self._request = compiled.create_infer_request()

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of a batch (N, 3, height, width)."""
        # OpenVINO takes its input channels first, and copies its output, which the next run writes over.
        [logits] = self._request.infer([batch.contiguous().numpy()], share_inputs=True).values()
        return torch.from_numpy(logits)


def openvino_options(dtype: torch.dtype) -> dict[str, object]:
    """OpenVINO's options: one thread, as several workers share the cores, and not pinned to a core."""
    return {
        "INFERENCE_PRECISION_HINT": PRECISION_HINTS[dtype],
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
