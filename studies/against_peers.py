"""Our server against other frameworks' servers with the same model, settings, code and allocator.

The best peer of a level is the one with the highest median there.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from importlib.metadata import version
from statistics import median

from litmeter.cli.arguments import positive_int
from litmeter.system.tables import markdown_table, pluralise
from studies.goals import keep
from studies.harness import Case, Levels, measure_rounds, rates, ratios, read_result
from studies.models import MODELS, exported, tuned
from studies.peers import PEERS

OURS = "litmeter"
TARGETS = {1: 0.97, 8: 1.3, 32: 1.3}
"""By number of users, how many times the rate of the best peer ours is to be."""
USERS = tuple(TARGETS)
SECONDS = 2.5
ROUNDS = 5


def cases(model: str) -> dict[str, Case]:
    """Every server, with one model."""
    settings, folders = tuned(model), exported(model)
    return {
        name: Case(settings, users=USERS, seconds=SECONDS, folders=folders, peer=peer)
        for name, peer in {OURS: None, **{name: name for name in PEERS}}.items()
    }


def compare(model: str, found: dict[str, list[Levels]], users: int) -> None:
    """Keep ours over the best peer at one level."""
    rps = {name: rates(levels, users) for name, levels in found.items()}
    best = max(PEERS, key=lambda name: median(rps[name]))
    keep(
        result(model, users),
        f"{model}, {pluralise(users, 'user')}: ours over the best peer ({best})",
        TARGETS[users],
        ratios(rps[OURS], rps[best]),
        rps=rps,
        failed={name: sum(one[users].failed for one in levels) for name, levels in found.items()},
        versions={name: version(name) for name in ("litserve", *PEERS)},
    )


def result(model: str, users: int) -> str:
    """Name under which a level is kept."""
    return f"peers_{model}_{users}"


def table(models: Sequence[str] = MODELS) -> str:
    """Medians by model and server, as Markdown."""
    head = ["model", "server", *(f"req/s, {pluralise(users, 'user')}" for users in USERS)]
    rows = []
    for model in models:
        kept = [read_result(result(model, users))["rps"] for users in USERS]
        rows += [[model, name, *(f"{median(rps[name]):.0f}" for rps in kept)] for name in (OURS, *PEERS)]
    return markdown_table(head, rows, text_columns=2)


def main() -> int:
    """Measure each model, print the medians and the ratios, and keep all values."""
    parser = argparse.ArgumentParser(prog="python -m studies.against_peers", description=__doc__)
    parser.add_argument("--rounds", type=positive_int, default=ROUNDS)
    parser.add_argument("--model", choices=MODELS, action="append", help="these only")
    options = parser.parse_args()
    missing = [name for name in PEERS if importlib.util.find_spec(name) is None]
    if missing:
        print(f"not installed: {', '.join(missing)}; pip install -e '.[peers]'", file=sys.stderr)
        return 2
    for model in options.model or MODELS:
        found = measure_rounds(f"against peers, {model}", cases(model), options.rounds)
        for users in USERS:
            compare(model, found, users)
        print(table([model]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
