"""Whether the search finds the best of a space that is measured exhaustively, and in how much of its time.

First every configuration takes turns with all others; then the search runs five times, each with a study of
its own. A study that was stopped goes on with the next run; delete its result to begin anew.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from statistics import median
from time import monotonic
from typing import Any

from litmeter.benchmark.comparison import TURN_S, paused_servers
from litmeter.inference.reference import read_reference
from litmeter.loadgen import load_generator
from litmeter.params import ServeSettings, load_params
from litmeter.paths import MODEL
from litmeter.serving.client import CONTENT_TYPES
from litmeter.stages.tune import machine_of
from litmeter.stats.comparison import ratios
from litmeter.system.machine import exclusive_machine
from litmeter.system.temporary import scratch
from litmeter.tune.run import Job, search
from litmeter.tune.space import space_of
from litmeter.tune.study import Study, name_of
from studies import DEVICE
from studies.harness import all_bodies, photo_paths, read_result, write_result

RUNS = 5
ROUNDS = 12
"""Of the exhaustive measurement: as many as give a ratio to about a tenth."""
SHARE = 0.25
"""Of its time, at most, for a search; the starts of its 36 servers do not count, those of a search do."""
SPACE: Mapping[str, Any] = {
    "precision": ("full", "half", "int8"),
    "compiled": (True,),
    "preprocess": ("torchvision",),
    "transport": ("litserve", "direct"),
    "workers_per_device": (1, 2),
    "threads_per_worker": (1,),
    "max_batch_size": (1, 2, 4),
    "batch_timeout_s": (0.0,),
    "keep_freed_memory": (True,),
}
"""36 configurations, all of which can run on two cores."""


def main() -> None:
    """Measure all, then search; keep each as soon as it has been measured."""
    params = load_params()
    tune = params.tune.model_copy(update=dict(SPACE))
    machine = machine_of(DEVICE, photo_paths())
    space = space_of(tune, params.serve, machine)
    configurations = {name_of(one): one for one in space.configurations}
    try:
        kept = read_result("tune_exhaustive")
    except FileNotFoundError:
        kept = {"exhaustive": exhaustive(configurations, tune.users), "runs": []}
    seconds = kept["exhaustive"]["seconds"]
    budget_s = SHARE * seconds
    for number in range(len(kept["runs"]), RUNS):
        load = params.load.model_copy(update={"seed": params.load.seed + number})
        job = Job(
            tune.model_copy(update={"max_s": budget_s, "seed": number}),
            params.serve,
            load,
            params.objective.model_copy(update={"max_s": 1.0}),
            MODEL,
            photo_paths(),
            all_bodies(load.request_body),
            read_reference(MODEL.exported),
            machine,
        )
        with scratch() as folder, exclusive_machine():
            started = monotonic()
            outcome = search(job, Study(f"sqlite:///{folder / 'study.db'}", "study"))
            used_s = monotonic() - started
        rates = kept["exhaustive"]["ratios"]
        best = max(rates.values())
        group = [row.name for row in outcome.rows if row.status in ("winner", "equal", "not resolved")]
        kept["runs"].append(
            {
                "winner": outcome.rows[0].name,
                "winner_of_best": round(rates[outcome.rows[0].name] / best, 4),
                "best_of_group": round(max(rates[name] for name in group) / best, 4),
                "group": len(group),
                "rounds": outcome.rounds,
                "model_error": round(outcome.model_error, 3),
                "seconds": round(used_s),
                "share_of_exhaustive": round(used_s / seconds, 3),
            }
        )
        print(kept["runs"][-1], flush=True)
        write_result("tune_exhaustive", kept)


def exhaustive(configurations: Mapping[str, ServeSettings], users: int) -> dict[str, Any]:
    """The ratio of every configuration's rate to the first one's, all measured in turn, and its interval."""
    params = load_params()
    reference = next(iter(configurations))
    rates: dict[str, list[float | None]] = {name: [] for name in configurations}
    rng = random.Random(0)
    load = params.load
    with (
        exclusive_machine(),
        paused_servers(list(configurations), configurations, MODEL, DEVICE, load.timeout_s) as servers,
        load_generator(all_bodies(load.request_body), CONTENT_TYPES[load.request_body]) as generator,
    ):
        assert len(servers) == len(configurations), "they do not fit into memory together"
        started = monotonic()
        for number in range(ROUNDS):
            for server in rng.sample(servers, len(servers)):
                turn = server.take_turn(generator, load, number, users, TURN_S)
                rates[turn.name].append(turn.rate_rps)
        seconds = monotonic() - started
    found = {name: own for name, own in ratios(rates, reference).items() if name != reference}
    widths = [(own.high - own.low) / own.ratio for own in found.values() if own.low and own.high]
    content = {
        "ratios": {reference: 1.0, **{name: round(own.ratio, 4) for name, own in found.items()}},
        "median_width": round(median(widths), 3),
        "rounds": ROUNDS,
        "seconds": round(seconds),
    }
    write_result("tune_exhaustive", {"exhaustive": content, "runs": []})
    return content


if __name__ == "__main__":
    main()
