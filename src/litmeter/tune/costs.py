"""The costs of the parts, in-process and of servers with a null model, and the rates that they predict."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from litmeter.errors import LitmeterError
from litmeter.load import LoadPlan
from litmeter.measure.comparison_rows import geometric_mean
from litmeter.measure.turn import Sample, Schedule, Turn, Work, in_process, measure, serve
from litmeter.params import ServeSettings
from litmeter.tune.space import built, simplicity

Costs = Mapping[str, Mapping[int, float]]
"""By part, then by batch size, seconds for an image or request: of a worker for the model, while as many as
have cores are busy; of a core for a preprocessing, or a transport with the load generator's share."""

ROUNDS = 4
"""Rounds of all parts: were each measured once, a drift of the machine would pass for a cost."""
WORK_S, NULL_S = 0.15, 1.0
"""Measured in each turn, of a part in-process and of a server with a null model."""


@dataclass(frozen=True)
class Part:
    """A part of configurations whose cost is measured by itself, with all workers busy.

    ``settings`` are those of a server with a null model where its kind is "request", else of workers
    in-process.
    """

    name: str
    kind: Literal["model", "preprocess", "request"]
    settings: ServeSettings
    workers: int
    batch_sizes: tuple[int, ...] = (1,)

    @property
    def subject(self) -> str:
        """Name among the subjects of the loop."""
        return self.name if self.kind == "request" else in_process(self.name)


def model_part(settings: ServeSettings) -> str:
    """What the model's cost depends on."""
    threads = f"{settings.threads_per_worker or 'all'} threads"
    memory = "keeps" if settings.keep_freed_memory else "frees"
    return f"model {settings.precision}, {built(settings)}, {threads}, {memory} memory"


def part_names(settings: ServeSettings) -> tuple[str, str, str]:
    """The parts of a configuration: its model, decoding and preprocessing, and a request's way."""
    return model_part(settings), f"preprocess {settings.preprocess}", f"request {settings.transport}"


def parts_of(configurations: Iterable[ServeSettings], device: str, cores: int) -> list[Part]:
    """All parts of ``configurations``, each once."""
    models: dict[str, ServeSettings] = {}
    sizes: dict[str, set[int]] = defaultdict(lambda: {1})
    others: dict[str, Part] = {}
    one_thread = {"threads_per_worker": 1, "keep_freed_memory": True, "workers_per_device": cores}
    for one in configurations:
        model, preprocess, request = part_names(one)
        models.setdefault(model, one)
        sizes[model].add(one.max_batch_size)
        alone = one.model_copy(update=one_thread)
        others.setdefault(preprocess, Part(preprocess, "preprocess", alone, cores))
        null = ServeSettings(transport=one.transport, workers_per_device=cores, threads_per_worker=1)
        others.setdefault(request, Part(request, "request", null, cores))
    parts = []
    for name, one in models.items():
        workers = max(1, cores // (one.threads_per_worker or cores)) if device == "cpu" else 1
        settings = one.model_copy(update={"workers_per_device": workers})
        parts.append(Part(name, "model", settings, workers, tuple(sorted(sizes[name]))))
    return [*parts, *others.values()]


def measure_costs(parts: Sequence[Part], plan: LoadPlan, max_s: float, seed: int) -> Schedule[Costs]:
    """Measure all parts in interleaved rounds, as many of them at once as memory holds.

    Args:
        plan: of a turn of a server; a null model's takes NULL_S.
        max_s: after so long no more rounds than the first begin.

    Returns:
        The geometric means over the rounds, without the parts that do not start.

    Raises:
        LitmeterError: a server with a null model does not answer.
    """
    plan = replace(plan, requests=1, min_s=NULL_S, max_s=NULL_S, give_up_s=None)
    seconds: dict[tuple[str, int], list[float]] = {}
    waiting, rng = list(parts), random.Random(seed)
    while waiting:
        serving = yield from serve([part.subject for part in waiting])
        group = [part for part in waiting if part.subject in serving.names]
        works = [(part, size) for part in group for size in part.batch_sizes]
        until_s = serving.at_s + max_s * len(group) / len(parts)
        order: list[tuple[Part, int]] = []
        for number in range(ROUNDS):
            order = order[::-1] if number % 2 else rng.sample(works, len(works))
            for part, size in order:
                load = plan if part.kind == "request" else Work(part.kind, size, WORK_S, part.workers)
                sample = yield from measure(Turn(part.subject, load, number, note="costs"))
                seconds.setdefault((part.name, size), []).append(_cost_s(part, sample))
            if not works or sample.ended_s > until_s:
                break
        # The first of those that wait always has room: where it is not ready, it has failed.
        waiting = [part for part in waiting[1:] if part not in group]
    costs: dict[str, dict[int, float]] = defaultdict(dict)
    for (name, size), own in seconds.items():
        costs[name][size] = geometric_mean(own)
    return costs


def _cost_s(part: Part, sample: Sample) -> float:
    row = sample.row
    if part.kind != "request":
        if not row.rate_rps:
            raise LitmeterError(f"{part.name}: no batch was done")
        return part.workers / row.rate_rps
    if not row.rate_rps or row.server_cores is None or row.client_cores is None or row.failed:
        raise LitmeterError(
            f"{part.name}: the server with a null model did not answer every request; with fewer places than "
            "users (max_queue) it cannot"
        )
    return (row.server_cores + row.client_cores) / row.rate_rps


def predicted_rps(settings: ServeSettings, costs: Costs, cores: int, users: int) -> float:
    """Requests per second in a closed loop, by the CPU time of all parts and the time of a batch."""
    workers = settings.workers_per_device
    if settings.transport == "litserve" and settings.batch_timeout_s == 0:
        size = 1.0  # LitServe's queues give a batch of one without a timeout
    else:
        size = max(1.0, min(float(settings.max_batch_size), users / workers))
    by_size, preprocess, request = (costs[part] for part in part_names(settings))
    sizes = sorted(by_size)
    model_s = float(np.interp(size, sizes, [by_size[one] for one in sizes]))
    preprocess_s, request_s = preprocess[1], request[1]
    cpu_s = model_s * (settings.threads_per_worker or cores) + preprocess_s + request_s
    filled = settings.max_batch_size * workers <= users
    batch_s = size * (model_s + preprocess_s) + (0.0 if filled else settings.batch_timeout_s)
    return min(cores / cpu_s, workers * size / batch_s)


def ranking(
    configurations: Iterable[ServeSettings], costs: Costs, cores: int, users: int
) -> list[tuple[ServeSettings, float]]:
    """The configurations with their predicted rates, fastest first; of equals, the simpler first."""
    predicted = [(one, predicted_rps(one, costs, cores, users)) for one in configurations]
    return sorted(predicted, key=lambda pair: (-pair[1], simplicity(pair[0])))
