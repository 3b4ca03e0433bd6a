"""Results of one configuration, and figures that follow from them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import geometric_mean
from typing import Any, NamedTuple

from litmeter.kinds.configuration import Configuration
from litmeter.measure.levels import NULL_SERVER
from litmeter.measure.rows import OTHER_LOAD_PERCENT, BenchmarkMetrics, ComparisonRow, TurnRow
from litmeter.params import half_is_native

ROLES = ("http", "workers", "manager", "client")
"""Processes whose CPU and waiting times a turn has."""
MOST_TAKEN = 0.9
"""Largest share taken by others from which an undisturbed rate is extrapolated."""


@dataclass(frozen=True)
class Result:
    """All results of one configuration.

    Attributes:
        device: cpu or cuda.
        machine: metrics/machine.json.
        metrics: what the configuration does alone.
        compared: the configuration's row of the comparison.
        turns: the configuration's turns in the comparison; none where the row is of an earlier run.
        alone: turns of the configuration's own stage, with those of its null server.
        unavailable: why the pipeline was not run in-process; empty where it was.
        batch_ms: of a LitAPI, time of an answer in-process, in one worker, by batch size; empty where the
            configured batch size is as large as its users can fill.
        faster: keys that make the model faster, how many times, and a text (``faster_models`` of a kind).
        tokens: of an answer, by its costs; None where it is no generation or they are not known.
    """

    name: str
    serve: Configuration
    device: str
    machine: Mapping[str, Any]
    metrics: BenchmarkMetrics
    compared: ComparisonRow
    turns: Sequence[TurnRow]
    alone: Sequence[TurnRow]
    unavailable: str = ""
    batch_ms: Mapping[int, float] = field(default_factory=dict)
    faster: Sequence[tuple[str, float, str]] = ()
    tokens: int | None = None

    @property
    def cores(self) -> float:
        """Cores that the configuration may use."""
        return float(self.machine["cores"])

    @property
    def threads(self) -> int:
        """Threads of the model's library in each worker, on a CPU."""
        cpus = int(self.machine.get("cpus", self.machine["cores"]))  # libraries do not know of quotas
        return self.serve.threads or cpus

    @property
    def item(self) -> str:
        """What rates count: image or request."""
        return self.serve.item

    @property
    def unit(self) -> str:
        """What bounds count: images/s, requests/s, or tokens/s of generations."""
        return "tokens/s" if self.tokens else f"{self.item}s/s"

    @property
    def ceiling(self) -> str:
        """The name of the bounds above its model: a classifier's precision, else the configuration's."""
        return self.serve.ceiling or self.name

    @property
    def half_is_native(self) -> bool:
        """Whether the device has instructions for half precision."""
        return half_is_native(self.machine, self.device)

    @property
    def emulated(self) -> bool:
        """Whether the device lacks instructions for the configured precision."""
        return self.serve.native(self.half_is_native) != self.serve

    @property
    def served(self) -> list[TurnRow]:
        """The comparison's turns of the server."""
        return [row for row in self.turns if row.work == "served"]

    @property
    def null(self) -> TurnRow | None:
        """The turn of the null server (a model that does nothing); None without an answer."""
        return next((row for row in self.alone if row.subject == NULL_SERVER and row.rate_rps), None)

    @property
    def in_process_size(self) -> int | None:
        """Batch size of model and pipeline in-process; None where they were not measured."""
        sizes = Counter(row.batch_size for row in self.turns if row.work == "model" and row.batch_size)
        return round(sizes.most_common(1)[0][0] or 1) if sizes else None

    def in_process(self, work: str) -> list[TurnRow]:
        """The comparison's turns of ``work`` at ``in_process_size``."""
        return [row for row in self.turns if row.work == work and row.batch_size == self.in_process_size]

    def rates(self, work: str) -> list[float | None]:
        """Rates by round of served, model or pipeline."""
        return self.by_round(self.served if work == "served" else self.in_process(work))

    def by_round(self, rows: Sequence[TurnRow]) -> list[float | None]:
        """Geometric mean rate of ``rows`` in each round of the comparison; None in a round without a rate."""
        rounds = range(1 + max((row.round for row in self.turns), default=-1))
        rates = [[row.rate_rps for row in rows if row.rate_rps and row.round == number] for number in rounds]
        return [geometric_mean(known) if known else None for known in rates]

    @property
    def undisturbed_model(self) -> list[float | None]:
        """Rates of the model by round, without what other processes and the hypervisor took."""
        return self.by_round(
            [
                replace(row, rate_rps=row.rate_rps / (1 - min(MOST_TAKEN, sum(self.taken(row) or Taken()))))
                for row in self.in_process("model")
                if row.rate_rps
            ]
        )

    def taken(self, row: TurnRow) -> Taken | None:
        """What others took from one of the configuration's turns; None where it is not known."""
        return taken(row, self.cores, self.serve.workers)

    def disturbed_percent(self, work: str) -> float | None:
        """Percent of the cores that others and the hypervisor used beside ``work``; None: not known."""
        rows = self.in_process(work)
        other = mean(rows, "other_percent")
        return None if other is None else other + (mean(rows, "steal_percent") or 0.0)

    @property
    def crowded(self) -> list[TurnRow]:
        """Turns of the pipeline in all workers, where that is slower than in as many as the cores can run."""
        rows, pipeline_rps = self.in_process("crowded"), self.compared.pipeline_rps
        slower = rows and rows[0].high_rps and pipeline_rps and rows[0].high_rps < pipeline_rps
        return rows if slower else []

    @property
    def one_thread(self) -> list[TurnRow]:
        """Turns of the pipeline in all workers of one thread; none where that is the configured number."""
        return self.in_process("one_thread") if self.threads > 1 else []

    @property
    def spread(self) -> float | None:
        """Gain in-process of as many workers as users on all cores over their configured threads; None: not
        measured, as there are as many users as it takes."""
        lone, spread = (
            mean([row for row in self.turns if row.work == work], "rate_rps") for work in ("lone", "spread")
        )
        return spread / lone if lone and spread else None

    @property
    def filled(self) -> float:
        """How many times as much the pipeline does where all its workers have fuller batches, for which there
        are too few users; 1 where that is not certainly more."""
        pipeline_rps = self.compared.pipeline_rps or math.inf
        full = [row for row in self.turns if row.work == "filled" and (row.low_rps or 0.0) > pipeline_rps]
        return (mean(full, "rate_rps") or pipeline_rps) / pipeline_rps if full else 1.0

    @property
    def stage_ms(self) -> dict[str, float]:
        """Mean time of a request in each stage of the server, in their order; empty if it times none."""
        known = [(row.stage_ms, max(row.answers, 1)) for row in self.served if "queue" in row.stage_ms]
        stages, whole = dict.fromkeys(name for ms, _ in known for name in ms), sum(w for _, w in known)
        return {name: sum(ms.get(name, 0.0) * weight for ms, weight in known) / whole for name in stages}


class Taken(NamedTuple):
    """Shares of a turn's possible work that were not done because others had the cores."""

    others: float = 0.0
    hypervisor: float = 0.0


def taken(row: TurnRow, cores: float, workers: int) -> Taken | None:
    """What other processes and the hypervisor took from a turn with a rate; None where it is not known.

    A turn is as fast as its busiest process. Others slow that process down while it is ready and has no core;
    whatever else they use, the turn would have left idle. Where no process is busy all the time, a request
    waits for a core in one process after another. The hypervisor takes from whichever process runs.

    Args:
        workers: worker processes; every other role has one busy thread.
    """
    used, waited = (
        {role: (row.rate_rps or 0.0) * (getattr(row, f"{role}_{what}_ms") or 0.0) / 1000 for role in ROLES}
        for what in ("cpu", "wait")
    )
    all_used = sum(used.values())
    other = cores - all_used if row.other_percent is None else cores * row.other_percent / 100
    if row.workers_wait_ms is not None:
        threads = dict.fromkeys(ROLES, 1.0) | {"workers": min(workers, cores)}
        busiest = max(ROLES, key=lambda role: (used[role] + waited[role]) / threads[role])
        own, lost = used[busiest], max(0.0, min(other, waited[busiest]))
    elif row.other_percent is not None and row.other_percent <= OTHER_LOAD_PERCENT:
        own, lost = all_used, other
    else:
        return None
    stolen = cores * (row.steal_percent or 0.0) / 100 * own / max(all_used + other, 1e-9)
    wanted = max(min(1.0, cores), own + lost + stolen)
    on_the_way = max(0.0, min(other, sum(waited.values()))) / (row.users or math.inf)
    return Taken(max(lost / wanted, on_the_way), stolen / wanted)


def mean(rows: Sequence[TurnRow], column: str) -> float | None:
    """The mean of a column, each turn weighted by its answers; None where no turn has the column."""
    known = [(getattr(row, column), max(row.answers, 1)) for row in rows if getattr(row, column) is not None]
    return sum(value * weight for value, weight in known) / sum(w for _, w in known) if known else None


def fastest_first(rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    """Rows with a rank, by rank and ratio, then the others by ratio."""
    return sorted(rows, key=lambda row: (row.rank or len(rows) + 1, -(row.ratio or 0.0)))
