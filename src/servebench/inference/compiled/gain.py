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

MEASURE_S = 0.5


def main() -> None:
    """Time each package of the order (JSON: folder, device, packages) and the model it was made from."""
    order: dict[str, Any] = json.loads(sys.argv[1])
    folder, device = Path(order["folder"]), order["device"]
    for package in order["packages"]:
        eager = eager_model(folder, device, package["precision"])
        example = example_batch(folder, device, package["batch_size"])
        dtype = getattr(torch, dtype_name(package["precision"], device))
        compiled = load_package(Path(package["path"]), dtype, example.device)
        times = {"eager_ms": run_ms(eager, example), "compiled_ms": run_ms(compiled, example)}
        print(json.dumps(times), flush=True)


@torch.inference_mode()
def run_ms(run: Run, example: torch.Tensor) -> float:
    """Median wall time of a run, milliseconds, over MEASURE_S after one that does not count."""

    def once() -> float:
        started = perf_counter()
        run(example)
        if example.is_cuda:
            torch.cuda.synchronize()
        return 1000 * (perf_counter() - started)

    once()
    deadline = perf_counter() + MEASURE_S
    times = [once()]
    while perf_counter() < deadline:
        times.append(once())
    return median(times)


if __name__ == "__main__":
    main()
