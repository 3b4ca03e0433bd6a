"""What compiling brings: ``python -m servebench.inference.compiled.gain ORDER``, a line of JSON per package.

A process of its own, which can be started as a worker that keeps freed memory: without that, what
timm's modules take is mostly page faults, and the comparison would flatter the compiler.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from servebench.inference.compiled.backends import Run, load_package
from servebench.inference.compiled.package import eager_model, example_batch
from servebench.inference.device import dtype_name

ROUNDS = 10
ROUND_S = 0.05
"""Of either, in turn: a machine that changes its speed for longer changes it for both."""


def main() -> None:
    """Time each package of the order (JSON: folder, device, packages) and the model it was made from."""
    order: dict[str, Any] = json.loads(sys.argv[1])
    folder, device = Path(order["folder"]), order["device"]
    for package in order["packages"]:
        eager = eager_model(folder, device, package["precision"])
        example = example_batch(folder, device, package["batch_size"])
        dtype = getattr(torch, dtype_name(package["precision"], device))
        compiled = load_package(Path(package["path"]), dtype, example.device)
        print(json.dumps(times_ms(eager, compiled, example)), flush=True)


@torch.inference_mode()
def times_ms(eager: Run, compiled: Run, example: torch.Tensor) -> dict[str, list[float]]:
    """Median wall time of a run by round, milliseconds; each round has the reverse order of the last."""
    runs = {"eager_ms": eager, "compiled_ms": compiled}
    found: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():  # the first run of either does not count
        run_ms(run, example)
    for number in range(ROUNDS):
        for name in list(runs) if number % 2 else reversed(runs):
            deadline = perf_counter() + ROUND_S
            times = [run_ms(runs[name], example)]
            while perf_counter() < deadline:
                times.append(run_ms(runs[name], example))
            found[name].append(median(times))
    return found


def run_ms(run: Run, example: torch.Tensor) -> float:
    """Wall time of one run, milliseconds."""
    started = perf_counter()
    run(example)
    if example.is_cuda:
        torch.cuda.synchronize()
    return 1000 * (perf_counter() - started)


if __name__ == "__main__":
    main()
