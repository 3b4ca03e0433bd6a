"""How our server compares with the same classifier behind other frameworks' servers.

All have the same settings, model code and allocator, and take the photos as they are. Each round starts
one server after another, never two at a time, and the next round begins with another one; a ratio is
taken within a round. The best peer of a level is the one with the highest median there.
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
from typing import Any

from benchmarks.peers import PEERS
from benchmarks.short import all_photos, short_rates
from servebench.arguments import count
from servebench.lock import machine_to_ourselves
from servebench.params import ServeSettings
from servebench.paths import EXPORT_FOLDER, MACHINE
from servebench.progress import bar
from servebench.results import read_json, write_json
from servebench.serving.running import RunningServer, running_server
from servebench.table import text_table

SETTINGS = ServeSettings(
    precision="half",
    max_batch_size=8,
    workers_per_device=2,
    threads_per_worker=1,
    preprocess="fast",
    keep_freed_memory=True,
)
OURS = "servebench"
DIRECT = {"transport": "direct"} if "transport" in ServeSettings.model_fields else {}
"""What only our own server has."""
TARGETS = {1: 0.97, 8: 1.3, 32: 1.3}
"""By number of users, how many times the rate of the best peer ours is to be."""
USERS = tuple(TARGETS)
SECONDS = 3.0
ROUNDS = 5
CONTENT_TYPE = "image/jpeg"
RESULT = Path("benchmarks/results/peers.json")

Rates = dict[str, list[dict[int, float]]]
"""By server, for each round the requests per second by number of users."""


@contextmanager
def running(name: str) -> Iterator[RunningServer]:
    """Our server or a peer, until the block is left."""
    from benchmarks.peers.running import running_peer

    if name == OURS:
        settings = SETTINGS.model_copy(update=DIRECT)
        with running_server(EXPORT_FOLDER, settings, "cpu", 30.0) as server:
            yield server
    else:
        with running_peer(name, EXPORT_FOLDER, SETTINGS) as server:
            yield server


def measure(rounds: int) -> Rates:
    """Every server in every round."""
    photos = all_photos()
    names = (OURS, *PEERS)
    rates: Rates = {name: [] for name in names}
    with machine_to_ourselves(), bar(rounds * len(names), "against peers", "server") as progress:
        for number in range(rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                with running(name) as server:
                    rates[name].append(
                        short_rates(server, photos, USERS, SECONDS, number, content_type=CONTENT_TYPE)
                    )
                progress.update()
    return rates


def compare(rates: Rates, users: int) -> dict[str, Any]:
    """Ours over the best peer at one level."""
    best = max(PEERS, key=lambda name: median(found[users] for found in rates[name]))
    ratios = [own[users] / peer[users] for own, peer in zip(rates[OURS], rates[best], strict=True)]
    figure = median(ratios)
    return {
        "users": users,
        "best_peer": best,
        "target": TARGETS[users],
        "figure": round(figure, 3),
        "met": figure >= TARGETS[users],
        "ratios": [round(ratio, 3) for ratio in ratios],
        "rps": {name: [found[users] for found in rates[name]] for name in rates},
    }


def main() -> int:
    """Measure, print the medians and the ratios, and keep all values."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against_peers", description=__doc__)
    parser.add_argument("--rounds", type=count, default=ROUNDS)
    options = parser.parse_args()
    missing = [name for name in PEERS if importlib.util.find_spec(name) is None]
    if missing:
        print(f"not installed: {', '.join(missing)}; pip install -e '.[peers]'", file=sys.stderr)
        return 2
    rates = measure(options.rounds)
    levels = [compare(rates, users) for users in USERS]
    write_json(
        RESULT,
        {
            "goal": "at least 1.3 times the best peer's rate at 8 and 32 users, and 0.97 times at 1",
            "met": all(level["met"] for level in levels),
            "levels": levels,
            "rounds": options.rounds,
            "settings": SETTINGS.model_dump(),
            "only_ours": DIRECT,
            "versions": {name: version(name) for name in ("litserve", *PEERS)},
            "machine": read_json(MACHINE)["id"],
        },
    )
    head = ["server", *(f"req/s, {users} user{'s' if users > 1 else ''}" for users in USERS)]
    rows = [[name, *(f"{median(level['rps'][name]):.1f}" for level in levels)] for name in rates]
    print(text_table(head, rows))
    for level in levels:
        print(
            f"users {level['users']}: {level['figure']:.2f} times {level['best_peer']} "
            f"({', '.join(f'{ratio:.2f}' for ratio in level['ratios'])}); "
            f"the target of {level['target']} is {'met' if level['met'] else 'missed'}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
