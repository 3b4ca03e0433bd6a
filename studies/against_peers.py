"""How our server compares with the same classifier behind other frameworks' servers.

All have the same settings, model code and allocator, and take the photos as they are. Each round starts
one server after another, never two at a time, and the next round begins with another one; a ratio is
taken within a round. The best peer of a level is the one with the highest median there. Of a peer only the
good answers count.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median

from servebench.report.markdown import markdown_table

from servebench.benchmark.levels import LevelRow
from servebench.cli.arguments import count
from servebench.params import ServeSettings
from servebench.report.limit import pluralise
from servebench.serving.launcher import RunningServer, running_server
from servebench.system.files import read_json
from servebench.system.machine_lock import exclusive_machine
from servebench.system.progress import bar
from servebench.system.tables import text_table
from studies.goals import FOLDER, keep
from studies.models import MODELS, exported, tuned
from studies.peers import PEERS
from studies.short import all_bodies, short_levels

OURS = "servebench"
TARGETS = {1: 0.97, 8: 1.3, 32: 1.3}
"""By number of users, how many times the rate of the best peer ours is to be."""
USERS = tuple(TARGETS)
SECONDS = 2.5
ROUNDS = 5
NAMES = {name or "default": name for name in MODELS}

Levels = dict[str, list[dict[int, LevelRow]]]
"""By server, for each round its levels by number of users."""


@contextmanager
def running(name: str, folder: Path, serve: ServeSettings) -> Iterator[RunningServer]:
    """Our server or a peer, until the block is left."""
    from studies.peers.running import running_peer

    if name == OURS:
        with running_server(folder, serve, "cpu", 30.0) as server:
            yield server
    else:
        with running_peer(name, folder, serve) as server:
            yield server


def measure(folder: Path, serve: ServeSettings, rounds: int) -> Levels:
    """Every server in every round."""
    photos = all_bodies("image")
    names = (OURS, *PEERS)
    levels: Levels = {name: [] for name in names}
    with exclusive_machine(), bar(rounds * len(names), "against peers", "server") as progress:
        for number in range(rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                with running(name, folder, serve) as server:
                    levels[name].append(
                        short_levels(server, photos, USERS, SECONDS, number, "image", lossless=name == OURS)
                    )
                progress.update()
    return levels


def compare(model: str, levels: Levels, users: int) -> None:
    """Keep ours over the best peer at one level."""
    rates = {name: [found[users]["throughput_rps"] for found in own] for name, own in levels.items()}
    best = max(PEERS, key=lambda name: median(rates[name]))
    keep(
        f"peers_{model}_{users}",
        f"{model}, {pluralise(users, 'user')}: ours over the best peer ({best})",
        TARGETS[users],
        [own / peer for own, peer in zip(rates[OURS], rates[best], strict=True)],
        rps=rates,
        failed={name: sum(found[users]["failed"] for found in own) for name, own in levels.items()},
        versions={name: version(name) for name in ("litserve", *PEERS)},
    )


def table() -> str:
    """Medians of all that has been kept, by model and server, as Markdown."""
    kept = {
        (model, users): read_json(FOLDER / f"peers_{model}_{users}.json")["rps"]
        for model in NAMES
        for users in USERS
    }
    rows = [
        [model, server, *(f"{median(kept[model, users][server]):.0f}" for users in USERS)]
        for model in NAMES
        for server in (OURS, *PEERS)
    ]
    return markdown_table(
        ["model", "server", *(f"req/s, {pluralise(users, 'user')}" for users in USERS)], rows
    )


def main() -> int:
    """Measure each model, print the medians and the ratios, and keep all values."""
    parser = argparse.ArgumentParser(prog="python -m studies.against_peers", description=__doc__)
    parser.add_argument("--rounds", type=count, default=ROUNDS)
    parser.add_argument("--model", choices=list(NAMES), action="append", help="these only")
    options = parser.parse_args()
    missing = [name for name in PEERS if importlib.util.find_spec(name) is None]
    if missing:
        print(f"not installed: {', '.join(missing)}; pip install -e '.[peers]'", file=sys.stderr)
        return 2
    for model in options.model or NAMES:
        name = NAMES[model]
        levels = measure(exported(name), tuned(name), options.rounds)
        head = [model, *(f"req/s, {pluralise(users, 'user')}" for users in USERS)]
        rows = [
            [server, *(f"{median(row[users]['throughput_rps'] for row in own):.1f}" for users in USERS)]
            for server, own in levels.items()
        ]
        print(text_table(head, rows))
        for users in USERS:
            compare(model, levels, users)
    return 0


if __name__ == "__main__":
    sys.exit(main())
