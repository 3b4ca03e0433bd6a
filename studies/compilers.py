"""What compiles the models best on a CPU, for one image on one thread: torch's Inductor or OpenVINO."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median

import torch

from litmeter.inference.compiled.gain import run_ms
from litmeter.inference.compiled.model import BatchModel, load_package
from litmeter.inference.compiled.package import INDUCTOR_CONFIG, compile_packages, eager_model, example_batch
from litmeter.inference.device import dtype_name
from litmeter.inference.environment import worker_environment
from litmeter.params import ServeSettings
from litmeter.system.machine_lock import exclusive_machine
from litmeter.system.tables import markdown_table
from litmeter.system.temporary import scratch
from studies import DEVICE
from studies.harness import measure_rounds, ratios, read_result, write_result
from studies.models import MODELS, exported

COMPILERS = ("inductor", "openvino")
PRECISIONS = ("full", "half")
BATCH_SIZE = 1
ROUNDS = 5
RESULT = "compilers"

Compiled = tuple[str, str, str]
"""Model, precision, compiler."""


def cases(sources: Mapping[str, Path], folder: Path) -> Iterator[tuple[Compiled, Callable[[int], float]]]:
    """Every model compiled by each, with the packages in ``folder``: milliseconds of a run."""
    for model, source in sources.items():
        example = example_batch(source, DEVICE, BATCH_SIZE)
        for precision in PRECISIONS:
            path = folder / f"{model}-{precision}"
            yield (model, precision, "inductor"), timed(inductor(source, precision, path, example), example)
            yield (model, precision, "openvino"), timed(openvino(source, precision, path, example), example)


def timed(run: BatchModel, example: torch.Tensor) -> Callable[[int], float]:
    """A case."""
    return lambda number: run_ms(run, example)


def inductor(source: Path, precision: str, path: Path, example: torch.Tensor) -> BatchModel:
    """The model in ``source``, as a C++ library."""
    package = str(path.with_suffix(".pt2"))
    with torch.no_grad():
        graph = torch.export.export(eager_model(source, DEVICE, precision), (example,))
        torch._inductor.aoti_compile_and_package(
            graph, package_path=package, inductor_configs=INDUCTOR_CONFIG
        )
    loaded: BatchModel = torch._inductor.aoti_load_package(package)
    return loaded


def openvino(source: Path, precision: str, path: Path, example: torch.Tensor) -> BatchModel:
    """The same, as the stage ``compile`` has it compiled on a CPU."""
    dtype = getattr(torch, dtype_name(precision, DEVICE))
    compile_packages(eager_model(source, DEVICE, "full"), example, {dtype: path})
    return load_package(path, dtype, example.device)


def main() -> None:
    """Compile, measure, print the medians and keep all values."""
    sources = {model: exported(model).exported for model in MODELS}
    with scratch() as folder:
        with exclusive_machine():
            compiled = dict(cases(sources, folder))
        ms = measure_rounds("compilers", compiled, ROUNDS)
    rows = [
        {
            "model": model,
            "precision": precision,
            "ms": {
                compiler: [round(one, 3) for one in ms[model, precision, compiler]] for compiler in COMPILERS
            },
            "gain": round(median(ratios(*(ms[model, precision, compiler] for compiler in COMPILERS))), 3),
        }
        for model in MODELS
        for precision in PRECISIONS
    ]
    write_result(RESULT, {"models": rows, "batch_size": BATCH_SIZE})
    print(table())


def table() -> str:
    """Medians by model and precision, as Markdown."""
    head = ["model", "precision", "Inductor, ms", "OpenVINO, ms", "Inductor / OpenVINO"]
    rows = [
        [
            row["model"],
            row["precision"],
            *(f"{median(row['ms'][compiler]):.2f}" for compiler in COMPILERS),
            f"{row['gain']:.2f}",
        ]
        for row in read_result(RESULT)["models"]
    ]
    return markdown_table(head, rows, text_columns=2)


if __name__ == "__main__":
    own = worker_environment(ServeSettings(keep_freed_memory=True))
    if own != dict(os.environ):  # glibc reads it as a process starts
        os.execve(sys.executable, [sys.executable, "-m", "studies.compilers"], own)
    main()
