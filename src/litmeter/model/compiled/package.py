"""Compile packages: ``python -m litmeter.model.compiled.package``.

By OpenVINO on a CPU, which needs no C++ compiler, and by torch's Inductor on a GPU. Int8 comes by NNCF, as
post-training quantisation for OpenVINO.

A process of its own: several run at once, and the memory that a compiler keeps is freed at its end.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from operator import itemgetter
from pathlib import Path
from time import perf_counter
from typing import Any

import openvino
import torch

from litmeter.model.card import read_card
from litmeter.model.compiled.model import openvino_options
from litmeter.model.device import dtype_name
from litmeter.model.model import PixelModel, load_model
from litmeter.model.preprocess import TorchvisionPreprocess, stack_images


def write_package(graph: openvino.Model, shape: Sequence[int], dtype: torch.dtype, path: Path) -> None:
    """Write OpenVINO's package of ``graph`` for batches of this ``shape``, computed in ``dtype``."""
    graph.reshape(list(shape))  # static: the conversion leaves the batch size open
    compiled = openvino.Core().compile_model(graph, "CPU", openvino_options(dtype))
    if compiled.output(0).shape[0] != shape[0]:
        raise ValueError(f"a graph for batches of {shape[0]} answers {compiled.output(0).shape[0]} images")
    path.write_bytes(compiled.export_model().getvalue())


def quantise(model: torch.nn.Module, pixels: Sequence[torch.Tensor]) -> openvino.Model:
    """The graph of ``model`` with weights and activations in int8, where an operator has such a kernel.

    It takes batches of any size.

    Ranges of activations are those that ``pixels`` cause.

    Args:
        model: in float32, for pixels, uint8 (N, 3, size, size).
        pixels: of each calibration photo, uint8 (3, size, size).
    """
    import nncf  # takes seconds

    images = [image.unsqueeze(0) for image in pixels]
    with torch.no_grad():  # of two images, as torch takes a size of one for a constant
        any_batch = ({0: torch.export.Dim.AUTO},)
        exported = torch.export.export(model, (torch.cat([images[0]] * 2),), dynamic_shapes=any_batch)
        graph = openvino.convert_model(exported)
    dataset = nncf.Dataset([image.contiguous().numpy() for image in images])
    # Weights symmetric, activations asymmetric: as fast as symmetric ones, and closer to the model's answers.
    mixed = nncf.QuantizationPreset.MIXED
    quantised: openvino.Model = nncf.quantize(graph, dataset, preset=mixed, subset_size=len(images))
    return quantised


def eager_model(folder: Path, device: str, precision: str) -> PixelModel:
    """The exported model in ``folder`` with its normalisation, as timm builds it: what is compiled.

    It is float32 for ``int8``, to which a compiled graph is quantised.
    """
    torch.set_num_threads(1)
    card, target = read_card(folder), torch.device(device)
    dtype = getattr(torch, dtype_name("full" if precision == "int8" else precision, device))
    return PixelModel(load_model(folder, card, target, dtype), card, target, dtype)


def example_batch(folder: Path, device: str, batch_size: int) -> torch.Tensor:
    """A batch of random pixels, uint8 (batch_size, 3, size, size), the same each time."""
    size = read_card(folder).image_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (batch_size, 3, size, size), dtype=torch.uint8, generator=generator)
    return stack_images(list(pixels), torch.device(device), torch.uint8)


def main() -> None:
    """Compile the packages of the job (JSON: folder, device, packages, calibration); print a line for each.

    Those of one batch size, which stand together, are of one graph on a CPU; on a GPU there is one of each.
    All in int8 are of one graph, quantised with the photos of ``calibration``; they have a job of their own.
    """
    job: dict[str, Any] = json.loads(sys.stdin.readline())
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.gettempdir()
    folder, device = Path(job["folder"]), job["device"]
    compile_job = compile_int8 if job["packages"][0]["precision"] == "int8" else compile_float
    with redirect_stdout(sys.stderr):  # whatever a compiler has to say
        compile_job(job, folder, device)


def compile_float(job: dict[str, Any], folder: Path, device: str) -> None:
    """Compile packages in formats that the model itself computes in."""
    for size, group in itertools.groupby(job["packages"], key=itemgetter("batch_size")):
        began = perf_counter()
        paths = {package["precision"]: package["path"] for package in group}
        example = example_batch(folder, device, size)
        # OpenVINO casts a model in float32 itself.
        model = eager_model(folder, device, next(iter(paths)) if device == "cuda" else "full")
        with torch.no_grad():
            exported = torch.export.export(model, (example,))
            if device == "cuda":
                [path] = paths.values()
                # Weights become constants: folded, packed, and part of the package.
                torch._inductor.aoti_compile_and_package(
                    exported, package_path=path, inductor_configs={"freezing": True}
                )
            else:
                graph = openvino.convert_model(exported)
                for precision, path in paths.items():
                    dtype = getattr(torch, dtype_name(precision, device))
                    write_package(graph, example.shape, dtype, Path(path))
        report(list(paths), size, (perf_counter() - began) / len(paths))


def compile_int8(job: dict[str, Any], folder: Path, device: str) -> None:
    """Quantise the model, and compile packages of it; the first one's time contains the quantisation."""
    began = perf_counter()
    preprocess = TorchvisionPreprocess(read_card(folder))  # as a server sees the photos
    pixels = [preprocess.transform(preprocess.decode(Path(path).read_bytes())) for path in job["calibration"]]
    graph = quantise(eager_model(folder, device, "int8"), pixels)
    for package in job["packages"]:
        size = package["batch_size"]
        write_package(graph, [size, *pixels[0].shape], torch.int8, Path(package["path"]))
        report(["int8"], size, perf_counter() - began)
        began = perf_counter()


def report(precisions: Sequence[str], batch_size: int, seconds: float) -> None:
    """Print how long each of these packages took."""
    for precision in precisions:
        print(json.dumps([precision, batch_size, round(seconds, 1)]), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    main()
