"""What serving adds to the same pipeline in-process: throughput, latency alone, tails, and CPU when idle."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean

import psutil

from litmeter.benchmark.inprocess import inprocess_workers
from litmeter.params import BaselineSettings, ServeSettings
from litmeter.paths import ModelFolders
from studies import DEVICE
from studies.goals import keep
from studies.harness import Case, Levels, measure_rounds, photo_paths
from studies.models import DEFAULT, MODELS, exported, tuned

TARGETS = {DEFAULT: 0.92, "convnext_tiny": 0.96, "mobilenetv3_small_100": 0.85}
"""The share of the in-process rate that serving is to keep, by model."""
ALONE_TARGET = 1.0
TAIL_TARGETS = {8: 1.7, 32: 1.3}
"""Of p99 over p50, by number of users."""
IDLE_TARGET_PERCENT = 0.5
SECONDS = 3.0
REQUESTS_P99 = 664
BASELINE_S = 0.8
ALONE_S = 1.0
IDLE_S = 10.0
SETTLE_S = 2.0
ROUNDS = 5


@dataclass(frozen=True)
class Overhead:
    """One round of one model.

    Attributes:
        levels: with the server, for one user and for those of TAIL_TARGETS.
        in_process_rps: of all workers without it.
        alone_ms: of one image in one worker without it.
    """

    levels: Levels
    in_process_rps: float
    alone_ms: float

    @property
    def served_rps(self) -> float:
        """At the best level."""
        return max(row.throughput_rps for row in self.levels.values())


def overhead(folders: ModelFolders, settings: ServeSettings, number: int) -> Overhead:
    """In-process before and after the load, in the same environment, on as many workers."""
    alone = Case(settings, users=(1,), seconds=SECONDS, folders=folders)
    loaded = replace(alone, users=tuple(TAIL_TARGETS), requests=REQUESTS_P99)
    baseline = BaselineSettings(batch_sizes=(1, settings.max_batch_size), seconds=BASELINE_S)
    with inprocess_workers(folders, settings, DEVICE, photo_paths(), baseline) as inprocess:

        def alone_rps() -> float:
            return mean(inprocess.run("pipeline", 1, ALONE_S, busy=1)[0])

        inprocess.measure()
        before = alone_rps()
        with alone.running() as server:
            levels = alone.load(server, number) | loaded.load(server, number)
        after = alone_rps()
        inprocess.measure()
        rate_rps = max(row.pipeline_rps for row in inprocess.rows())
    return Overhead(levels, rate_rps, 1000 / mean((before, after)))


def idle_percent(number: int) -> float:
    """Of one core, by all of the server's processes while nobody asks anything."""
    with Case(tuned(DEFAULT), users=(), seconds=0.0).running() as server:
        time.sleep(SETTLE_S)
        root = psutil.Process(server.pid)
        tree = [root, *root.children(recursive=True)]

        def used_s() -> float:
            return sum(sum(process.cpu_times()[:2]) for process in tree)

        before = used_s()
        time.sleep(IDLE_S)
        return 100 * (used_s() - before) / IDLE_S


def main() -> None:
    """Measure every model, and keep all figures."""
    parser = argparse.ArgumentParser(prog="python -m studies.overhead", description=__doc__)
    parser.add_argument("--model", choices=MODELS, action="append", help="these only")
    models = parser.parse_args().model or MODELS
    cases = {model: partial(overhead, exported(model), tuned(model)) for model in models}
    found = measure_rounds("overhead", cases, ROUNDS)
    for model, rounds in found.items():
        best = [max(one.levels.values(), key=lambda row: row.throughput_rps) for one in rounds]
        keep(
            f"efficiency_{model}",
            f"{model}: served over pipeline in-process",
            TARGETS[model],
            [row.throughput_rps / one.in_process_rps for row, one in zip(best, rounds, strict=True)],
            served_rps=[row.throughput_rps for row in best],
            in_process_rps=[round(one.in_process_rps, 2) for one in rounds],
            client_cpu_ms=[row.client_cpu_ms for row in best],
        )
    if DEFAULT in found:
        keep_latencies(found[DEFAULT])
        [idle] = measure_rounds("idle", {"idle": idle_percent}, ROUNDS).values()
        keep("idle", "an idle server, percent of one core", IDLE_TARGET_PERCENT, idle, at_least=False)


def keep_latencies(rounds: Sequence[Overhead]) -> None:
    """Latency alone, and tails."""
    p50_ms = [one.levels[1].p50_ms or 0.0 for one in rounds]
    keep(
        "alone",
        "one user: p50 over 1.10 times one image in-process plus 1 ms",
        ALONE_TARGET,
        [p50 / (1.1 * one.alone_ms + 1) for p50, one in zip(p50_ms, rounds, strict=True)],
        at_least=False,
        p50_ms=p50_ms,
        in_process_ms=[round(one.alone_ms, 2) for one in rounds],
    )
    for users, target in TAIL_TARGETS.items():
        tails = [(one.levels[users].p99_ms, one.levels[users].p50_ms) for one in rounds]
        keep(
            f"tail_{users}",
            f"p99 over p50 at {users} users",
            target,
            [p99 / p50 for p99, p50 in tails if p99 and p50],
            at_least=False,
        )


if __name__ == "__main__":
    main()
