"""What compiles the models best on a CPU: torch's Inductor or OpenVINO, on one thread, in turn."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from servebench.report.markdown import markdown_table

from servebench.inference.compiled.backends import INDUCTOR, Run, compile_package, load_package
from servebench.inference.compiled.gain import run_ms
from servebench.inference.compiled.package import eager
from servebench.inference.device import dtype_name
from servebench.inference.environment import worker_environment
from servebench.params import ServeSettings
from servebench.paths import MACHINE
from servebench.system.files import read_json, write_json
from servebench.system.machine_lock import exclusive_machine
from servebench.system.progress import bar
from servebench.system.temporary import scratch
from studies.models import MODELS, exported

PRECISIONS = ("full", "half")
BATCH_SIZE = 1
ROUNDS = 5
RESULT = Path("benchmarks/results/compilers.json")


def both(folder: Path, precision: str, scratch_folder: Path) -> Iterator[tuple[str, Run]]:
    """The model in ``folder`` compiled by each."""
    dtype = getattr(torch, dtype_name(precision, "cpu"))
    own, example = eager(str(folder), "cpu", precision, BATCH_SIZE)
    path = scratch_folder / "inductor.pt2"
    with torch.no_grad():
        graph = torch.export.export(own, (example,))
        torch._inductor.aoti_compile_and_package(graph, package_path=str(path), inductor_configs=INDUCTOR)
    yield "inductor", torch._inductor.aoti_load_package(str(path))
    full, example = eager(str(folder), "cpu", "full", BATCH_SIZE)
    compile_package(full, example, dtype, path := scratch_folder / "openvino")
    yield "openvino", load_package(path, dtype, example.device)


def measure(name: str | None, precision: str) -> dict[str, Any]:
    """Milliseconds of a run on one image, by compiler, round by round."""
    folder = exported(name)
    _, example = eager(str(folder), "cpu", "full", BATCH_SIZE)
    with scratch() as temporary:
        runs = dict(both(folder, precision, temporary))
        rounds = [{compiler: run_ms(run, example) for compiler, run in runs.items()} for _ in range(ROUNDS)]
    times = {compiler: [round(one[compiler], 3) for one in rounds] for compiler in runs}
    gain = median(one["inductor"] / one["openvino"] for one in rounds)
    return {"model": name or "default", "precision": precision, "ms": times, "gain": round(gain, 3)}


def main() -> None:
    """Compare, print and keep."""
    cases = [(name, precision) for name in MODELS for precision in PRECISIONS]
    with exclusive_machine(), bar(len(cases), "compilers", "model") as progress:
        found = []
        for case in cases:
            found.append(measure(*case))
            progress.update()
    write_json(RESULT, {"models": found, "batch_size": BATCH_SIZE, "machine": read_json(MACHINE)["id"]})
    print(table(found))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Medians by model and precision, as Markdown."""
    head = ["model", "precision", "Inductor, ms", "OpenVINO, ms", "Inductor / OpenVINO"]
    cells = [
        [
            row["model"],
            row["precision"],
            *(f"{median(row['ms'][compiler]):.2f}" for compiler in ("inductor", "openvino")),
            f"{row['gain']:.2f}",
        ]
        for row in rows
    ]
    return markdown_table(head, cells)


if __name__ == "__main__":
    environment = worker_environment(ServeSettings(keep_freed_memory=True))
    if environment != dict(os.environ):  # glibc reads it as a process starts
        os.execve(sys.executable, [sys.executable, "-m", "studies.compilers"], environment)
    main()
