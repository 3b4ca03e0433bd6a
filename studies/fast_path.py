"""What the fast path past ASGI is worth: the same server with it and without it, in pairs.

Closed loops with two models, and three times the peak rate offered to each.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from servebench.benchmark.levels import level_row
from servebench.benchmark.telemetry import Usage
from servebench.params import ServeSettings, load_params
from servebench.serving.launcher import RunningServer
from servebench.stats.comparison import Ratio, ratio
from servebench.system.temporary import scratch
from studies.harness import Case, Levels, load_plan, measure_side_by_side, rates, run_load, write_result
from studies.models import DEFAULT, with_packages

SOURCE = Path("src")
FAST_PATH = Path("servebench/serving/direct/fast_path.py")
CONDITION = 'self.url == b"/predict"'
"""Of the requests that take it; without it, none does."""
LARGEST_BATCH = {DEFAULT: 4, "mobilenetv3_small_100": 8}
GAIN = {DEFAULT: 1.02, "mobilenetv3_small_100": 1.05}
"""Below these, and without a gain under overload, it is not worth its code."""
USERS = (8, 32)
SECONDS = 2.5
PAIRS = 16
OVERLOAD = 3
OVERLOAD_PAIRS = 6
OVERLOAD_S = 6.0
CONNECTIONS = 256
MAX_QUEUE = 64


@dataclass(frozen=True)
class Overload(Case):
    """A server that is offered more than it can do."""

    rate_rps: float = 0.0

    def load(self, server: RunningServer, seed: int) -> Levels:
        """Offer the rate; the level's throughput counts good answers."""
        plan = load_plan(users=CONNECTIONS, seconds=OVERLOAD_S, seed=seed, rate_rps=self.rate_rps)
        [record] = run_load(server, self.form, [plan])
        return {CONNECTIONS: level_row(record, Usage())}


@contextmanager
def source_without() -> Iterator[Path]:
    """A copy of the source, without the fast path."""
    with scratch() as folder:
        copy = folder / "src"
        shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        path = copy / FAST_PATH
        text = path.read_text()
        assert text.count(CONDITION) == 1, f"{FAST_PATH} has changed"
        path.write_text(text.replace(CONDITION, "False"))
        yield copy


def settings_of(model: str) -> ServeSettings:
    """The candidate, with the batch size that suits the model, and a queue that overload can fill."""
    changes = {"max_batch_size": LARGEST_BATCH[model], "max_queue": MAX_QUEUE}
    return load_params().configuration("candidate").model_copy(update=changes)


def gain(with_it: Sequence[float], without: Sequence[float]) -> Ratio:
    """Rate with the fast path over that without it."""
    return ratio({"with": with_it, "without": without}, "with", "without", "without")


def main() -> None:
    """Measure, print and keep the gains."""
    result: dict[str, dict[str, float | None]] = {}
    with source_without() as copy:
        environments = {
            "with": {"PYTHONPATH": str(SOURCE.resolve())},
            "without": {"PYTHONPATH": str(copy)},
        }
        for model, target in GAIN.items():
            folders, settings = with_packages(model, LARGEST_BATCH[model]), settings_of(model)
            cases = {
                name: Case(settings, users=USERS, seconds=SECONDS, folders=folders, environment=variables)
                for name, variables in environments.items()
            }
            found = measure_side_by_side(f"fast path, {model}", cases, PAIRS)
            for users in USERS:
                own = gain(*(rates(found[name], users) for name in ("with", "without")))
                result[f"{model}, {users} users"] = row(own, target)
            offered_rps = OVERLOAD * median(rates(found["with"], USERS[-1]))
            overloads = {
                name: Overload(
                    settings,
                    users=(CONNECTIONS,),
                    seconds=OVERLOAD_S,
                    folders=folders,
                    environment=variables,
                    rate_rps=offered_rps,
                )
                for name, variables in environments.items()
            }
            found = measure_side_by_side(f"overload, {model}", overloads, OVERLOAD_PAIRS)
            own = gain(*(rates(found[name], CONNECTIONS) for name in ("with", "without")))
            result[f"{model}, {OVERLOAD} times the peak"] = row(own, 1.0)
    write_result("fast_path", {"gains": result, "pairs": PAIRS, "overload_pairs": OVERLOAD_PAIRS})
    for name, figures in result.items():
        interval = f"{figures['low']} to {figures['high']}"
        print(f"{name}: {figures['gain']} ({interval}), worth its code from {figures['target']}")


def row(own: Ratio, target: float) -> dict[str, float | None]:
    """A gain as it is kept."""
    assert own.low is not None
    assert own.high is not None
    return {
        "gain": round(own.ratio, 4),
        "low": round(own.low, 4),
        "high": round(own.high, 4),
        "target": target,
    }


if __name__ == "__main__":
    main()
