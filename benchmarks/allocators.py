"""Which allocator suits the workers, eager and compiled: glibc, glibc keeping what is freed, and others.

Others are preloaded where they are installed (Debian: ``libjemalloc2``, ``libmimalloc3``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from pathlib import Path
from statistics import median

from benchmarks.short import all_bodies, short_rates
from servebench.lock import machine_to_ourselves
from servebench.params import load_params
from servebench.paths import EXPORT_FOLDER, MACHINE
from servebench.progress import bar
from servebench.report.markdown import markdown_table
from servebench.results import read_json, write_json
from servebench.serving.running import running_server

USERS = 8
SECONDS = 3.0
ROUNDS = 3
KEPT = "glibc, freed memory kept"
PRELOADED = {name: library for name in ("jemalloc", "mimalloc") if (library := find_library(name))}
ALLOCATORS = ("glibc", KEPT, *PRELOADED)
RESULT = Path("benchmarks/results/allocators.json")


@contextmanager
def preloaded(library: str | None) -> Iterator[None]:
    """Have processes that are started in the block load ``library`` first."""
    if library is None:
        yield
        return
    os.environ["LD_PRELOAD"] = library
    try:
        yield
    finally:
        del os.environ["LD_PRELOAD"]


def main() -> None:
    """Measure all of them in turn, print the medians and keep all values."""
    serve = load_params().experiments["e7_tuned"]
    bodies = all_bodies(serve.request_body)
    models = {"eager": False, "compiled": True}
    found: dict[str, dict[str, list[float]]] = {
        model: {allocator: [] for allocator in ALLOCATORS} for model in models
    }
    with (
        machine_to_ourselves(),
        bar(ROUNDS * len(models) * len(ALLOCATORS), "allocators", "server") as progress,
    ):
        for number in range(ROUNDS):
            for model, compiled in models.items():
                for allocator in ALLOCATORS:
                    own = {"compiled": compiled, "keep_freed_memory": allocator == KEPT}
                    settings = serve.model_copy(update=own)
                    with (
                        preloaded(PRELOADED.get(allocator)),
                        running_server(EXPORT_FOLDER, settings, "cpu", 30.0) as server,
                    ):
                        rates = short_rates(server, bodies, (USERS,), SECONDS, number, serve.request_body)
                    found[model][allocator].append(rates[USERS])
                    progress.update()
    write_json(RESULT, {"rps": found, "users": USERS, "machine": read_json(MACHINE)["id"]})
    print(table(found))


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """Medians as Markdown, one row per allocator."""
    rows = [
        [allocator, *(f"{median(found[model][allocator]):.1f}" for model in found)]
        for allocator in next(iter(found.values()))
    ]
    return markdown_table(["allocator", *(f"{model}, req/s" for model in found)], rows)


if __name__ == "__main__":
    main()
