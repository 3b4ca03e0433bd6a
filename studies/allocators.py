"""Which allocator suits the workers, eager and compiled: glibc, glibc keeping what is freed, and others.

Others are preloaded where they are installed (Debian: ``libjemalloc2``, ``libmimalloc3``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from pathlib import Path
from statistics import median

from servebench.report.markdown import markdown_table

from servebench.errors import ServerError
from servebench.params import ServeSettings, load_params
from servebench.paths import EXPORT_FOLDER, MACHINE
from servebench.serving.launcher import running_server
from servebench.system.files import read_json, write_json
from servebench.system.machine_lock import exclusive_machine
from servebench.system.progress import bar
from studies.short import all_bodies, short_rates

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


def rate(settings: ServeSettings, library: str | None, bodies: list[bytes], seed: int) -> float | None:
    """Requests per second in a short level; None where the server fails with ``library`` preloaded."""
    try:
        with preloaded(library), running_server(EXPORT_FOLDER, settings, "cpu", 30.0) as server:
            return short_rates(server, bodies, (USERS,), SECONDS, seed, settings.request_body)[USERS]
    except ServerError as error:
        if library is None:
            raise
        print(f"{library}: {error}", file=sys.stderr)
        return None


def main() -> None:
    """Measure all of them in turn, print the medians and keep all values."""
    serve = load_params().experiments["e7_tuned"]
    bodies = all_bodies(serve.request_body)
    models = {"eager": False, "compiled": True}
    found: dict[str, dict[str, list[float | None]]] = {
        model: {allocator: [] for allocator in ALLOCATORS} for model in models
    }
    with (
        exclusive_machine(),
        bar(ROUNDS * len(models) * len(ALLOCATORS), "allocators", "server") as progress,
    ):
        for number in range(ROUNDS):
            for model, compiled in models.items():
                for allocator in ALLOCATORS:
                    own = {"compiled": compiled, "keep_freed_memory": allocator == KEPT}
                    settings = serve.model_copy(update=own)
                    found[model][allocator].append(rate(settings, PRELOADED.get(allocator), bodies, number))
                    progress.update()
    write_json(RESULT, {"rps": found, "users": USERS, "machine": read_json(MACHINE)["id"]})
    print(table(found))


def table(found: dict[str, dict[str, list[float | None]]]) -> str:
    """Medians as Markdown, one row per allocator."""
    rows = [
        [allocator, *(middle(found[model][allocator]) for model in found)]
        for allocator in next(iter(found.values()))
    ]
    return markdown_table(["allocator", *(f"{model}, req/s" for model in found)], rows)


def middle(rates: list[float | None]) -> str:
    """The median of the rounds, if all of them had a server."""
    good = [rate for rate in rates if rate is not None]
    return f"{median(good):.1f}" if len(good) == len(rates) else "fails"


if __name__ == "__main__":
    main()
