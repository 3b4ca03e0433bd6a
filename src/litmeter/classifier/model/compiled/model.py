"""A model that runs compiled packages: OpenVINO's on a CPU, those of torch's Inductor on a GPU.

The loader of the latter unpacks a package into a temporary folder, from which kernels are loaded at their
first launch. A process that is killed leaves this folder behind.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from mmap import ACCESS_COPY, mmap
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from litmeter.classifier.model.compiled.manifest import AOTI_SUFFIX, packages_to_use, verified_file
from litmeter.classifier.model.precision import dtype_name
from litmeter.paths import ModelFolders
from litmeter.system.temporary import folder_of

if TYPE_CHECKING:
    import openvino

BatchModel = Callable[[torch.Tensor], torch.Tensor]
"""A model as a function: a batch -> logits (N, classes)."""

PRECISION_HINTS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.int8: "f32"}
"""For operators that are not quantised."""


def load_package(path: Path, dtype: torch.dtype, device: torch.device) -> BatchModel:
    """Load a package; it takes batches of the size that it was compiled for."""
    if path.suffix == AOTI_SUFFIX:
        torch.backends.cudnn.allow_tf32 = False  # full precision means IEEE float32
        with unpacking_into(folder_of(os.getpid())):
            return cast(BatchModel, torch._inductor.aoti_load_package(str(path)))
    return OpenVinoModel(path, dtype)


class OpenVinoModel:
    """OpenVINO's package, on as many threads as torch has at a run. All workers share the mapped weights."""

    def __init__(self, path: Path, dtype: torch.dtype) -> None:
        import openvino  # takes memory, which workers on a GPU do not need

        with path.open("rb") as file:
            package = np.frombuffer(mmap(file.fileno(), 0, access=ACCESS_COPY), np.uint8)
        # OpenVINO reads the weights in place, so this must live as long as the model.
        self._package = openvino.Tensor(package, shared_memory=True)
        self._core, self._dtype = openvino.Core(), dtype
        self._requests: dict[int, openvino.InferRequest] = {}
        self._request()

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of a batch (N, 3, height, width)."""
        # OpenVINO takes its input channels first, and copies its output, which the next run writes over.
        [logits] = self._request().infer([batch.contiguous().numpy()], share_inputs=True).values()
        return torch.from_numpy(logits)

    def _request(self) -> openvino.InferRequest:
        threads = torch.get_num_threads()
        if threads not in self._requests:
            options = openvino_options(self._dtype, threads)
            compiled = self._core.import_model(self._package, "CPU", options)
            self._requests[threads] = compiled.create_infer_request()
        return self._requests[threads]


def openvino_options(dtype: torch.dtype, threads: int) -> dict[str, object]:
    """OpenVINO's options: threads that share each batch, not pinned to cores, as workers share them."""
    return {
        "INFERENCE_PRECISION_HINT": PRECISION_HINTS[dtype],
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }


@contextmanager
def unpacking_into(folder: Path) -> Iterator[None]:
    """Have libraries make their temporary folders in ``folder`` within a block."""
    before = os.environ.get("TMPDIR")
    folder.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("TMPDIR")
        os.environ |= {"TMPDIR": before} if before else {}


def compiled_model(
    build_eager: Callable[[], BatchModel], folders: ModelFolders, precision: str, device: torch.device
) -> BatchModel:
    """A model that splits a batch into the sizes that have been compiled, largest first.

    ``build_eager`` builds the model in torch; it is called unless there is a package for a single image.
    """
    dtype = getattr(torch, dtype_name(precision, device.type))
    models = {
        package.batch_size: load_package(verified_file(folders.compiled, package), dtype, device)
        for package in packages_to_use(folders, device.type, precision)
    }
    sizes = sorted(models, reverse=True)
    eager = models.get(1) or build_eager()

    def run(batch: torch.Tensor) -> torch.Tensor:
        return run_in_parts(batch, split(len(batch), sizes), lambda size: models.get(size, eager))

    return run


def run_in_parts(
    batch: torch.Tensor, sizes: Sequence[int], model_of: Callable[[int], BatchModel]
) -> torch.Tensor:
    """Logits of a batch that is run in parts of ``sizes``, each part by the model for its size."""
    logits = [model_of(len(part))(part) for part in torch.split(batch, list(sizes))]
    return logits[0] if len(logits) == 1 else torch.cat(logits)


def split(number: int, sizes: list[int]) -> list[int]:
    """The summands of ``number``: ``sizes`` (descending), the largest first, and the remainder."""
    summands = []
    for size in sizes:
        summands += [size] * (number // size)
        number %= size
    return [*summands, number] if number else summands
