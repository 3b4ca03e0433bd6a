"""What serving adds to the same pipeline in-process: throughput, latency alone, tails, and CPU when idle.

In-process before and after the load, in the same environment, on as many workers; each level of its own
round.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import psutil

from servebench.benchmark.inprocess import inprocess_workers
from servebench.benchmark.levels import LevelRow
from servebench.params import BaselineSettings, ServeSettings
from servebench.serving.launcher import running_server
from servebench.system.machine_lock import exclusive_machine
from servebench.system.progress import bar
from studies.goals import keep
from studies.models import MODELS, exported, tuned
from studies.short import all_bodies, photo_paths, short_levels

ROUNDS = 5
TARGETS = {None: 0.92, "convnext_tiny": 0.96, "mobilenetv3_small_100": 0.85}
"""The share of the in-process rate that serving is to keep, by model; None is the pipeline's own."""
BASELINE_S = 0.8
USERS = (1, 8, 32)
SECONDS = 3.0
REQUESTS_P99 = 664
IDLE_S = 10.0


def one_round(
    folder: Path, serve: ServeSettings, bodies: list[bytes], number: int
) -> tuple[dict[int, LevelRow], float, float]:
    """The served levels; images/s in-process; and ms of one image alone in one worker."""
    paths = photo_paths()
    baseline = BaselineSettings(batch_sizes=(1, serve.max_batch_size), seconds=BASELINE_S)
    with inprocess_workers(folder, serve, "cpu", paths, baseline) as inprocess:
        inprocess.measure()
        alone = [mean(inprocess.run("pipeline", 1, 1.0, busy=1)[0])]
        with running_server(folder, serve, "cpu", 30.0) as server:
            levels = short_levels(server, bodies, (1,), SECONDS, number, "image")
            levels |= short_levels(server, bodies, USERS[1:], SECONDS, number, "image", REQUESTS_P99)
        alone.append(mean(inprocess.run("pipeline", 1, 1.0, busy=1)[0]))
        inprocess.measure()
        rate_rps = max(row["pipeline_rps"] for row in inprocess.rows())
    return levels, rate_rps, 1000 / mean(alone)


def idle_percent(folder: Path, serve: ServeSettings) -> float:
    """Of one core, by all of the server's processes while nobody asks anything."""

    def used_s(root: psutil.Process) -> float:
        return sum(sum(own.cpu_times()[:2]) for own in (root, *root.children(recursive=True)))

    with running_server(folder, serve, "cpu", 30.0) as server:
        time.sleep(2)
        root = psutil.Process(server.pid)
        before = used_s(root)
        time.sleep(IDLE_S)
        return 100 * (used_s(root) - before) / IDLE_S


def main() -> None:
    """Measure every model in every round, and keep all figures."""
    parser = argparse.ArgumentParser(prog="python -m studies.overhead", description=__doc__)
    titles = {name or "default": name for name in MODELS}
    parser.add_argument("--model", choices=titles, action="append", help="these only")
    models = [titles[title] for title in parser.parse_args().model or titles]
    bodies = all_bodies("image")
    folders = {name: exported(name) for name in models}
    found: dict[str | None, list[tuple[dict[int, LevelRow], float, float]]] = {name: [] for name in models}
    with exclusive_machine():
        with bar(ROUNDS * len(models), "overhead", "model") as progress:
            for number in range(ROUNDS):
                for name, folder in folders.items():
                    found[name].append(one_round(folder, tuned(name), bodies, number))
                    progress.update()
        idle = [idle_percent(folders[None], tuned(None))] if None in models else []
    for name in models:
        title = name or "default"
        best = [max(levels.values(), key=lambda row: row["throughput_rps"]) for levels, _, _ in found[name]]
        keep(
            f"efficiency_{title}",
            f"{title}: served over pipeline in-process",
            TARGETS[name],
            [row["throughput_rps"] / inside for row, (_, inside, _) in zip(best, found[name], strict=True)],
            served_rps=[row["throughput_rps"] for row in best],
            in_process_rps=[round(inside, 2) for _, inside, _ in found[name]],
            client_cpu_ms=[row["client_cpu_ms"] for row in best],
        )
    if None in models:
        keep_default(found[None], idle)


def keep_default(default: Sequence[tuple[dict[int, LevelRow], float, float]], idle: Sequence[float]) -> None:
    """Latency alone, tails, and CPU when idle, of the pipeline's own model."""
    keep(
        "alone",
        "one user: p50 over 1.10 times one image in-process plus 1 ms",
        1.0,
        [(levels[1]["p50_ms"] or 0) / (1.1 * alone_ms + 1) for levels, _, alone_ms in default],
        at_least=False,
        p50_ms=[levels[1]["p50_ms"] for levels, _, _ in default],
        in_process_ms=[round(alone_ms, 2) for _, _, alone_ms in default],
    )
    for users, target in ((8, 1.7), (32, 1.3)):
        tails = [(levels[users]["p99_ms"], levels[users]["p50_ms"]) for levels, _, _ in default]
        keep(
            f"tail_{users}",
            f"p99 over p50 at {users} users",
            target,
            [p99 / p50 for p99, p50 in tails if p99 and p50],
            at_least=False,
        )
    keep("idle", "an idle server, percent of one core", 0.5, idle, at_least=False)


if __name__ == "__main__":
    main()
