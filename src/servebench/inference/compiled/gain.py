"""Time compiled packages: ``python -m servebench.inference.compiled.gain JOB``, a line of JSON for each.

A process of its own, so that it can be started with the environment of a worker that keeps freed memory.
Without that, timm's modules spend most of their time on page faults, and the gain would be overstated.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from servebench.inference.compiled.backends import BatchModel, load_package
from servebench.inference.compiled.package import eager_model, example_batch
from servebench.inference.device import dtype_name

ROUNDS = 10
ROUND_S = 0.05
"""Of each of the two, alternately: a machine that slows down for longer slows down both."""


def main() -> None:
    """Time each package of the job (JSON: folder, device, packages) and the model it was compiled from."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    folder, device = Path(job["folder"]), job["device"]
    for package in job["packages"]:
        eager = eager_model(folder, device, package["precision"])
        example = example_batch(folder, device, package["batch_size"])
        dtype = getattr(torch, dtype_name(package["precision"], device))
        compiled = load_package(Path(package["path"]), dtype, example.device)
        print(json.dumps(times_ms(eager, compiled, example)), flush=True)


@torch.inference_mode()
def times_ms(eager: BatchModel, compiled: BatchModel, example: torch.Tensor) -> dict[str, list[float]]:
    """Median wall time of a run by round, milliseconds; each round has the reverse order of the last."""
    models = {"eager_ms": eager, "compiled_ms": compiled}
    medians: dict[str, list[float]] = {name: [] for name in models}
    for model in models.values():  # the first run of each is a warm-up
        run_ms(model, example)
    for number in range(ROUNDS):
        for name in list(models) if number % 2 else reversed(models):
            deadline = perf_counter() + ROUND_S
            times = [run_ms(models[name], example)]
            while perf_counter() < deadline:
                times.append(run_ms(models[name], example))
            medians[name].append(median(times))
    return medians


def run_ms(model: BatchModel, example: torch.Tensor) -> float:
    """Wall time of one run, milliseconds."""
    started = perf_counter()
    model(example)
    if example.is_cuda:
        torch.cuda.synchronize()
    return 1000 * (perf_counter() - started)


if __name__ == "__main__":
    main()
