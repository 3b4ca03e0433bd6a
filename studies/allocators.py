"""Which allocator suits the workers, eager and compiled: glibc, glibc keeping what is freed, and others.

Others are preloaded where they are installed (Debian: ``libjemalloc2``, ``libmimalloc3``).
"""

from __future__ import annotations

import sys
from ctypes.util import find_library
from functools import partial
from statistics import median

from litmeter.errors import ServerError
from litmeter.params import load_params
from litmeter.system.tables import markdown_table
from studies.harness import Case, measure_rounds, read_result, write_result

MODELS = {"eager": False, "compiled": True}
KEPT = "glibc, freed memory kept"
PRELOADED = {name: library for name in ("jemalloc", "mimalloc") if (library := find_library(name))}
ALLOCATORS = ("glibc", KEPT, *PRELOADED)
USERS = 8
SECONDS = 3.0
ROUNDS = 3
RESULT = "allocators"


def case(model: str, allocator: str) -> Case:
    """``e7_tuned`` with one allocator."""
    own = {"compiled": MODELS[model], "keep_freed_memory": allocator == KEPT}
    settings = load_params().configuration("e7_tuned").model_copy(update=own)
    environment = {"LD_PRELOAD": PRELOADED[allocator]} if allocator in PRELOADED else {}
    return Case(settings, users=(USERS,), seconds=SECONDS, environment=environment)


def rate(own: Case, number: int) -> float | None:
    """Requests per second; None where the server fails with the allocator that is preloaded."""
    try:
        return own(number)[USERS].throughput_rps
    except ServerError as error:
        if not own.environment:
            raise
        print(f"{own.environment['LD_PRELOAD']}: {error}", file=sys.stderr)
        return None


def main() -> None:
    """Measure all of them, print the medians and keep all values."""
    cases = {(model, name): partial(rate, case(model, name)) for model in MODELS for name in ALLOCATORS}
    found = measure_rounds("allocators", cases, ROUNDS)
    rps = {model: {name: found[model, name] for name in ALLOCATORS} for model in MODELS}
    write_result(RESULT, {"rps": rps, "users": USERS})
    print(table())


def table() -> str:
    """Medians by allocator, as Markdown."""
    rps = read_result(RESULT)["rps"]
    rows = [[name, *(middle(rps[model][name]) for model in rps)] for name in rps["eager"]]
    return markdown_table(["allocator", *(f"{model}, req/s" for model in rps)], rows)


def middle(rounds: list[float | None]) -> str:
    """The median, if all rounds had a server."""
    good = [rps for rps in rounds if rps is not None]
    return f"{median(good):.1f}" if len(good) == len(rounds) else "fails"


if __name__ == "__main__":
    main()
