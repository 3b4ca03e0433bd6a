"""Compile packages, and time them: ``python -m litmeter.classifier.model.compiled.package``.

OpenVINO, which needs no C++ compiler, compiles for a CPU; torch's Inductor for a GPU. NNCF quantises to int8.

Several processes compile at once, and the memory that a compiler keeps is freed at its process's end. The
process that times keeps freed memory as a worker does: torch would otherwise spend most of its time on page
faults, and the gain would be overstated. All run on one thread first, the model in torch, too.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from operator import itemgetter
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import openvino
import torch

from litmeter.classifier.model.card import read_card
from litmeter.classifier.model.compiled.manifest import AOTI_SUFFIX
from litmeter.classifier.model.compiled.model import (
    BatchModel,
    load_package,
    openvino_options,
    run_in_parts,
    split,
)
from litmeter.classifier.model.graph import GraphModel, converted, pixel_graph
from litmeter.classifier.model.model import PixelModel, load_model
from litmeter.classifier.model.precision import dtype_name
from litmeter.classifier.model.preprocess import TorchvisionPreprocess, stack_images
from litmeter.stats.ratios import Ratio, ratio
from litmeter.system.cores import whole_cores
from litmeter.system.device import wait_for

Entry = tuple[str, int, str]
"""A package's precision, batch size and path."""
Timed = tuple[str, str]
"""The precision of a timed model, and its kind: "compiled", "eager" (in torch) or "parts"."""
ROUNDS, EAGER_ROUNDS = 10, 4
ROUND_S = 0.05
"""In each round all models run in turn, for ROUND_S each: a machine that slows down slows down all of them.
The model in torch runs only in the first rounds where these resolve a difference."""


def main() -> None:
    """Read a job in JSON, what to ``do`` and its arguments; print a line for each package."""
    job: dict[str, Any] = json.loads(sys.stdin.readline())
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.gettempdir()
    torch.set_num_threads(1)
    jobs: dict[str, Callable[..., None]]
    jobs = {"compile": compile_float, "quantise": compile_int8, "time": time_packages}
    with redirect_stdout(sys.stderr):  # the output of compilers
        jobs[job.pop("do")](**job)


def _answer(content: Any) -> None:
    print(json.dumps(content), file=sys.__stdout__, flush=True)


def compile_float(folder: str, device: str, packages: Sequence[Entry]) -> None:
    """Compile packages in full and half precision; answer with the seconds of each.

    OpenVINO's packages of a batch size, which stand together in ``packages``, share a graph.
    """
    for size, group in itertools.groupby(packages, key=itemgetter(1)):
        began = perf_counter()
        paths = {precision: path for precision, _, path in group}
        example = example_batch(folder, device, size)
        graph = None
        for precision, path in paths.items():
            if path.endswith(AOTI_SUFFIX):
                compile_by_inductor(eager_model(folder, device, precision), example, path)
            else:
                graph = graph or graph_of(folder, example)  # in float32; OpenVINO casts it
                write_package(graph, example.shape, getattr(torch, dtype_name(precision, device)), path)
        seconds = round((perf_counter() - began) / len(paths), 1)
        for precision in paths:
            _answer([precision, size, seconds])


@torch.no_grad()
def compile_by_inductor(model: PixelModel, example: torch.Tensor, path: str) -> None:
    """Write AOTInductor's package of ``model`` for batches like ``example``."""
    exported = torch.export.export(model, (example,))
    # Weights become constants, which are folded, packed, and part of the package.
    torch._inductor.aoti_compile_and_package(exported, package_path=path, inductor_configs={"freezing": True})


def compile_int8(folder: str, device: str, packages: Sequence[Entry], calibration: Sequence[str]) -> None:
    """Quantise the model by photos, and compile packages of it; the time of the first includes quantising."""
    began = perf_counter()
    preprocess = TorchvisionPreprocess(read_card(Path(folder)))  # as a server sees the photos
    pixels = [preprocess.transform(preprocess.decode(Path(photo).read_bytes())) for photo in calibration]
    graph = quantise(graph_of(folder, pixels[0].unsqueeze(0), any_batch=True), pixels)
    for precision, size, path in packages:
        write_package(graph, [size, *pixels[0].shape], torch.int8, path)
        _answer([precision, size, round(perf_counter() - began, 1)])
        began = perf_counter()


def graph_of(folder: str, example: torch.Tensor, any_batch: bool = False) -> openvino.Model:
    """OpenVINO's graph of the exported model, for batches as large as ``example`` or of any size."""
    model, card = eager_model(folder, "cpu", "full"), read_card(Path(folder))
    if isinstance(model.model, GraphModel):
        return pixel_graph(model.model.graph(card.image_size), card)
    return converted(model, example, any_batch)


def write_package(graph: openvino.Model, shape: Sequence[int], dtype: torch.dtype, path: str) -> None:
    """Write OpenVINO's package of ``graph`` for batches of this ``shape``, computed in ``dtype``."""
    graph.reshape(list(shape))  # the conversion leaves the batch size open
    compiled = openvino.Core().compile_model(graph, "CPU", openvino_options(dtype, 1))
    if compiled.output(0).shape[0] != shape[0]:
        raise ValueError(f"a graph for batches of {shape[0]} answers {compiled.output(0).shape[0]} images")
    Path(path).write_bytes(compiled.export_model().getvalue())


def quantise(graph: openvino.Model, pixels: Sequence[torch.Tensor]) -> openvino.Model:
    """A float32 graph with weights and activations in int8, for operators that have such a kernel.

    The ranges of activations come from calibration photos: ``pixels``, uint8 (3, size, size) each.
    """
    import nncf  # takes seconds

    images = [image.unsqueeze(0).contiguous().numpy() for image in pixels]
    dataset = nncf.Dataset(images)
    # Asymmetric activations are as fast as symmetric ones, and closer to the model's answers.
    mixed = nncf.QuantizationPreset.MIXED
    quantised: openvino.Model = nncf.quantize(graph, dataset, preset=mixed, subset_size=len(images))
    return quantised


def eager_model(folder: str, device: str, precision: str) -> PixelModel:
    """The exported model in ``folder`` with its normalisation, in torch."""
    card, target = read_card(Path(folder)), torch.device(device)
    dtype = getattr(torch, dtype_name(precision, device))
    return PixelModel(load_model(Path(folder), card, target, dtype), card, target, dtype)


def example_batch(folder: str, device: str, batch_size: int) -> torch.Tensor:
    """A batch of random pixels, uint8 (batch_size, 3, size, size), the same at each call."""
    size = read_card(Path(folder)).image_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (batch_size, 3, size, size), dtype=torch.uint8, generator=generator)
    return stack_images(list(pixels), torch.device(device), torch.uint8)


def time_packages(folder: str, device: str, packages: Sequence[Entry]) -> None:
    """Time packages on a thread, each batch size's in turn; answer with precision, size and ``findings``.

    A package is used if it is faster than the model in torch in the same precision, if there is that, and not
    slower than smaller packages. One that is not is timed on all cores, too: larger batches gain more there.
    """
    precisions = dict.fromkeys(precision for precision, _, _ in packages)
    onnx = read_card(Path(folder)).kind == "onnx"
    eager = {
        precision: eager_model(folder, device, precision)
        for precision in precisions
        if precision != "int8" and not onnx
    }
    used: dict[str, dict[int, BatchModel]] = {precision: {} for precision in precisions}
    for size, group in itertools.groupby(sorted(packages, key=itemgetter(1)), key=itemgetter(1)):
        example = example_batch(folder, device, size)
        models: dict[Timed, BatchModel] = {}
        parts: dict[str, Sequence[int]] = {}  # smaller packages that make up the batch
        for precision, _, path in group:
            dtype = getattr(torch, dtype_name(precision, device))
            models[precision, "compiled"] = load_package(Path(path), dtype, example.device)
            if precision in eager:
                models[precision, "eager"] = eager[precision]
            smaller = used[precision]
            parts[precision] = split(size, sorted(smaller, reverse=True))
            if set(parts[precision]) <= set(smaller):
                in_parts = partial(run_in_parts, sizes=parts[precision], model_of=smaller.__getitem__)
                models[precision, "parts"] = in_parts
        times = times_ms(models, example)
        for precision, sizes in parts.items():
            found = findings(of_precision(times, precision), sizes)
            if found["skipped_reason"] and device == "cpu" and (threads := whole_cores()) > 1:
                own = {key: model for key, model in models.items() if key[0] == precision}
                torch.set_num_threads(threads)
                again = findings(of_precision(times_ms(own, example), precision), sizes)
                torch.set_num_threads(1)
                if again["skipped_reason"] is None:
                    remark = f"{found['skipped_reason']} on one thread, not on {threads}"
                    found |= {"skipped_reason": None, "remark": remark}
            if found["skipped_reason"] is None:
                used[precision][size] = models[precision, "compiled"]
            _answer((precision, size, found))


def of_precision(times: Mapping[Timed, list[float]], precision: str) -> dict[str, list[float]]:
    """The times of one precision, by kind."""
    return {kind: ms for (name, kind), ms in times.items() if name == precision}


def findings(times: Mapping[str, Sequence[float]], parts: Sequence[int]) -> dict[str, float | str | None]:
    """Fields of the manifest's ``Package``: median times, why it is not used, and a remark if it is used.

    ``times`` are milliseconds of a batch by round and kind: "compiled", and if available "eager" (possibly of
    the first rounds alone) and "parts" (packages of the batch sizes ``parts``).
    """
    reason = remark = None
    for other, name in (
        ("eager", "the model in torch"),
        ("parts", f"packages for {' + '.join(map(str, parts))}"),
    ):
        if reason is None and times.get(other):
            gain = gain_over(times["compiled"], times[other])
            text = f"{name}: {gain.ratio:.2f} times the rate ({gain.low:.2f} to {gain.high:.2f})"
            if gain.resolved:
                reason = f"slower than {text}" if gain.ratio < 1 else None
            elif other == "eager":
                reason = f"no difference resolved from {text}"
            else:
                remark = f"no difference resolved from {text}"
    medians = {
        f"{name}_ms": round(median(times[name]), 3) if times.get(name) else None
        for name in ("eager", "compiled", "parts")
    }
    return {**medians, "skipped_reason": reason, "remark": remark}


def gain_over(own_ms: Sequence[float], other_ms: Sequence[float]) -> Ratio:
    """The ratio of two models' rates in the rounds that both have, with its interval."""
    pairs = list(zip(own_ms, other_ms, strict=False))
    rates = {"own": [1 / own for own, _ in pairs], "other": [1 / other for _, other in pairs]}
    return ratio(rates, "own", "other", reference="other")


@torch.inference_mode()
def times_ms(models: Mapping[Timed, BatchModel], example: torch.Tensor) -> dict[Timed, list[float]]:
    """Median wall time of a run by round, milliseconds; the order is reversed from round to round."""
    medians: dict[Timed, list[float]] = {key: [] for key in models}
    for model in models.values():  # the first run of each is a warm-up
        run_ms(model, example)
    for number in range(ROUNDS):
        for key in list(models) if number % 2 else reversed(list(models)):
            precision, kind = key
            compiled = medians[precision, "compiled"]
            if kind == "eager" and number >= EAGER_ROUNDS and gain_over(compiled, medians[key]).resolved:
                continue
            deadline = perf_counter() + ROUND_S
            times = [run_ms(models[key], example)]
            while perf_counter() < deadline:
                times.append(run_ms(models[key], example))
            medians[key].append(median(times))
    return medians


def run_ms(model: BatchModel, example: torch.Tensor) -> float:
    """Wall time of one run, milliseconds."""
    started = perf_counter()
    model(example)
    wait_for(example.device)
    return 1000 * (perf_counter() - started)


if __name__ == "__main__":
    main()
