"""How well a capacity is found: the real schedule, on simulated servers of calm and of noisy machines.

Servers are simulated in seconds of *work* at full speed; the machine's speed says how long those take.
"""

from __future__ import annotations

import heapq
import math
from bisect import insort
from collections import deque
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from scipy.optimize import brentq

from litmeter.load import LoadPlan, Trace
from litmeter.measure.capacity import CapacityMetrics, search
from litmeter.measure.figures import machine_row, served_row
from litmeter.measure.telemetry import Usage
from litmeter.measure.turn import Sample, Turn
from litmeter.params import load_params
from litmeter.stats.records import OK, WINDOWS, Floats, LoadRecord
from studies.harness import TIMEOUT_S, keep_runs

LONG_CHANGES, LONG_SEED = 1000, 10**6
"""The truth is the capacity over so many changes of the speed."""
SLOW_SHARE = 0.35
"""Share of the time in which a noisy machine is slow."""
LEAST_STOLEN, MOST_STOLEN = 0.2, 0.7
"""Share of the speed that a burst of other load takes."""
TURN_S = 0.2
"""What the loop takes for a turn beside its load."""
BETWEEN_RPS, IN_BURSTS_RPS = 20.0, 80.0
MARGIN = 0.9
"""Of the low end: what one plans with."""


@dataclass(frozen=True)
class Machine:
    """Times (s), and the work (s at full speed) that is done until each; the speed is constant in between."""

    times: Floats
    work: Floats

    def work_at(self, times: Floats) -> Floats:
        """The work that is done until these times."""
        return np.interp(times, self.times, self.work)

    def times_of(self, work: Floats) -> Floats:
        """When this work is done."""
        return np.interp(work, self.work, self.times)


@dataclass(frozen=True)
class Noise:
    """What changes a machine's speed: a ``factor``, about every ``changes_s``, and bursts of other load.

    All times are means of exponential ones. ``slow_first``: the machine begins slow.
    """

    factor: float
    changes_s: float
    burst_every_s: float
    burst_s: float
    slow_first: bool = False

    def machine(self, seconds: float, rng: np.random.Generator) -> Machine:
        """A machine for ``seconds`` at least."""
        count = 20 + math.ceil(3 * seconds / self.changes_s)
        slow = np.arange(count) % 2 == (rng.random() >= SLOW_SHARE and not self.slow_first)
        changes = np.cumsum(rng.exponential(2 * self.changes_s * np.where(slow, SLOW_SHARE, 1 - SLOW_SHARE)))
        count = 20 + math.ceil(3 * seconds / self.burst_every_s)
        lengths = rng.exponential(self.burst_s, count)
        ends = np.cumsum(rng.exponential(self.burst_every_s, count) + lengths)
        stolen = rng.uniform(LEAST_STOLEN, MOST_STOLEN, count)
        times = np.sort(np.concatenate([[0.0], changes, ends - lengths, ends]))
        times = times[: np.searchsorted(times, min(changes[-1], ends[-1]))]
        begins = times[:-1]
        change, burst = np.searchsorted(changes, begins, "right"), np.searchsorted(ends, begins, "right")
        in_burst = begins >= (ends - lengths)[burst]
        speeds = np.where(slow[change], 1 / self.factor, 1.0) * np.where(in_burst, 1 - stolen[burst], 1.0)
        return Machine(times, np.concatenate([[0.0], np.cumsum(np.diff(times) * speeds)]))


@dataclass(frozen=True)
class Server:
    """Workers that take batches of what waits; a batch takes ``batch_s`` and ``request_s`` for each request.

    Where it is ``random``, an exponential time with that mean.
    """

    workers: int
    request_s: float
    objective_s: float
    random: bool = False
    batch_s: float = 0.0
    max_batch: int = 1

    @property
    def full_rps(self) -> float:
        """What it serves where it never waits."""
        return self.workers / (self.request_s + self.batch_s / self.max_batch)

    def serve(
        self, due: Floats, closes: float, rng: np.random.Generator, closed_loop: bool = False
    ) -> tuple[Floats, Floats]:
        """When requests came that were ``due``, ascending, before ``closes``, and when they were answered.

        In a closed loop an answer is followed by the next request. All times are in seconds of work.
        """
        waiting, free = deque(due.tolist()), [0.0] * self.workers
        came, ends = list[float](), list[float]()
        while waiting and waiting[0] < closes:
            begin = max(waiting[0], free[0])
            batch = [waiting.popleft()]
            while len(batch) < self.max_batch and waiting and waiting[0] <= begin:
                batch.append(waiting.popleft())
            took_s = self.request_s * len(batch)
            end = begin + self.batch_s + (rng.exponential(took_s) if self.random else took_s)
            heapq.heapreplace(free, end)
            came += batch
            ends += [end] * len(batch)
            if closed_loop:
                for _ in batch:
                    insort(waiting, end)
        return np.array(came), np.array(ends)


Bursts = tuple[float, float, float]


def trace_of(bursts: Bursts | None) -> Trace | None:
    """Random requests, BETWEEN_RPS a second, and IN_BURSTS_RPS in bursts; None without any."""
    if bursts is None:
        return None
    burst_s, every_s, whole_s = bursts
    rng = np.random.default_rng(LONG_SEED)
    due_s = np.sort(rng.uniform(0, whole_s, rng.poisson(whole_s * IN_BURSTS_RPS)))
    due_s = due_s[(due_s % every_s < burst_s) | (rng.random(len(due_s)) < BETWEEN_RPS / IN_BURSTS_RPS)]
    return Trace(due_s - due_s[0])


@dataclass(frozen=True)
class Cell:
    """Searches of ``max_s`` each for the capacity of a server.

    Attributes:
        burstiness: of the arrivals.
        bursts: of a trace instead: their length, the time from one to the next, and that of the whole trace.
    """

    name: str
    server: Server
    noise: Noise
    max_s: float = 240.0
    searches: int = 100
    burstiness: float = 1.0
    bursts: Bursts | None = None


CALM = Noise(1.0, 10.0, math.inf, 0.0)
BATCHING = Server(2, 0.009, 0.1, batch_s=0.0015, max_batch=4)
NOISES = {
    "by 1.2": Noise(1.2, 30.0, 30.0, 0.3),
    "by 1.4, every 15 s": Noise(1.4, 15.0, 12.0, 0.6),
    "by 1.4, every 60 s": Noise(1.4, 60.0, 12.0, 0.6),
    "by 1.4, every 60 s, slow at first": Noise(1.4, 60.0, 12.0, 0.6, slow_first=True),
}
QUEUES = {
    "D/2, 5 ms, 50 ms": Server(2, 0.005, 0.05),
    "D/2, 5 ms, 15 ms": Server(2, 0.005, 0.015),
    "M/1, 5 ms, 50 ms": Server(1, 0.005, 0.05, random=True),
    "D/1, 20 ms, 100 ms": Server(1, 0.02, 0.1),
    "D/2, 20 ms, 100 ms": Server(2, 0.02, 0.1),
}
BURSTY = [(0.25, "D/2, 5 ms, 50 ms"), (0.25, "D/1, 20 ms, 100 ms"), (0.25, "D/2, 20 ms, 100 ms")]
BURSTY += [(0.05, "D/2, 5 ms, 50 ms")]
TRACES = [(0.5, 5.0, 60.0), (5.0, 50.0, 300.0), (20.0, 100.0, 600.0), (100.0, 900.0, 900.0)]
TRACES += [(60.0, 900.0, 3600.0)]
CELLS = [
    *(
        Cell(f"{name}, {max_s:g} s", BATCHING, noise, max_s, searches=300)
        for max_s in (240.0, 120.0)
        for name, noise in NOISES.items()
    ),
    *(Cell(f"calm, M/{name}", server, CALM) for name, server in QUEUES.items()),
    *(
        Cell(f"burstiness {of:g}, {name}", QUEUES[name], CALM, searches=50, burstiness=of)
        for of, name in BURSTY
    ),
]
for bursts in TRACES:
    name = "bursts of {:g} s, one each {:g} s of {:g} s".format(*bursts)
    CELLS.append(Cell(name, QUEUES["D/2, 20 ms, 100 ms"], CALM, searches=50, bursts=bursts))


def long_run_rps(
    took_s: Callable[[Floats], Floats], due: Callable[[float], Floats], objective_s: float, full_rps: float
) -> float:
    """The rate at which the objective is just kept.

    Args:
        took_s: how long requests take that are due at these times, from their due time on.
        due: when requests are due at a rate.
        full_rps: a rate above it.
    """
    miss = load_params().objective.miss

    def excess(log_rate: float) -> float:
        share = float((took_s(due(math.exp(log_rate))) > objective_s).mean())
        return math.log(max(share, 1e-4) / miss)

    return math.exp(brentq(excess, math.log(full_rps / 10), math.log(full_rps), xtol=1e-3))


def long_arrivals(seconds: float, rate_rps: float, burstiness: float = 1.0) -> Floats:
    """Random arrivals; ``burstiness`` is the shape of the gamma distribution of the gaps."""
    gaps = np.random.default_rng(LONG_SEED).gamma(
        burstiness, 1 / (burstiness * rate_rps), round(seconds * rate_rps)
    )
    return np.cumsum(gaps)


def simulated(cell: Cell, seed: int) -> CapacityMetrics:
    """What one search finds."""
    rng = np.random.default_rng(seed)
    machine = cell.noise.machine(2 * cell.max_s + TIMEOUT_S, rng)
    objective = load_params().objective
    own = {"slo_ms": 1000 * cell.server.objective_s, "max_s": cell.max_s, "seed": seed}
    objective = objective.model_copy(update=own)
    schedule = search(cell.name, objective, TIMEOUT_S, cell.burstiness, trace_of(cell.bursts))
    turns, now_s, asked = 0, 0.0, next(schedule)
    while True:
        assert isinstance(asked, Turn)
        assert isinstance(asked.load, LoadPlan)
        found = loaded(cell.server, machine, asked.load, now_s, rng)
        seconds = max(found.window_edges[-1], found.end.max()) - now_s + TURN_S
        row = served_row(machine_row(asked, turns, now_s, seconds, Usage()), asked, found, Usage())
        try:
            asked = schedule.send(Sample(asked, row, found))
        except StopIteration as ended:
            metrics: CapacityMetrics = ended.value.metrics
            return metrics
        turns, now_s = turns + 1, now_s + seconds


def loaded(
    server: Server, machine: Machine, plan: LoadPlan, now_s: float, rng: np.random.Generator
) -> LoadRecord:
    """The requests of a load that begins at ``now_s``."""
    opens = now_s + plan.warmup_s
    closes = opens + plan.min_s
    due = np.full(plan.users, now_s)
    if plan.due_s is not None:
        due = now_s + np.array([due_s for due_s in plan.due_s if now_s + due_s < closes])
    elif plan.rate_rps is not None:
        count = 100 + round(2 * plan.rate_rps * (closes - now_s))
        gaps = rng.gamma(plan.burstiness, 1 / (plan.burstiness * plan.rate_rps), count)
        due = now_s + np.cumsum(gaps)
        due = due[due < closes]
    due, closes_work = machine.work_at(due), float(machine.work_at(np.array(closes)))
    came, ends = server.serve(due, closes_work, rng, closed_loop=plan.rate_rps is None)
    start, end = machine.times_of(came), machine.times_of(ends)
    zeros = np.zeros(len(start), dtype=np.int64)
    return LoadRecord(
        users=plan.users,
        rate_rps=plan.rate_rps,
        window_edges=np.linspace(opens, closes, WINDOWS + 1),
        user=zeros,
        start=start,
        sent=start,
        end=end,
        status=zeros + OK,
        code=zeros + 200,
        size=zeros,
        body=zeros,
    )


@cache
def truth_rps(server: Server, noise: Noise, burstiness: float, bursts: Bursts | None) -> float:
    """The capacity of a server in the long run, or over a whole trace."""
    seconds = LONG_CHANGES * noise.changes_s
    machine = noise.machine(2 * seconds, np.random.default_rng(LONG_SEED + 2))
    trace = trace_of(bursts)

    def due(rate_rps: float) -> Floats:
        if trace is None:
            return long_arrivals(seconds, rate_rps, burstiness)
        return trace.due_s * trace.rate_rps / rate_rps

    def took_s(due: Floats) -> Floats:
        rng = np.random.default_rng(LONG_SEED + 1)
        came, ends = server.serve(machine.work_at(due), math.inf, rng)
        return machine.times_of(ends) - machine.times_of(came)

    return long_run_rps(took_s, due, server.objective_s, server.full_rps)


def run(number: int) -> dict[str, Any]:
    """How estimates and intervals of a cell's searches lie to the truth; no interval does not hold it."""
    cell = CELLS[number]
    with ProcessPoolExecutor() as pool:
        found = list(pool.map(partial(simulated, cell), range(cell.searches), chunksize=5))
    truth = truth_rps(cell.server, cell.noise, cell.burstiness, cell.bursts)
    over = np.array([(one.capacity_rps or math.nan) / truth for one in found])
    low = np.array([(one.low_rps or math.nan) / truth for one in found])
    high = np.array([(one.high_rps or math.nan) / truth for one in found])
    figures = {
        "estimate_over_truth": np.nanmedian(over),
        "within_5_percent": np.mean(np.abs(over - 1) <= 0.05),
        "within_10_percent": np.mean(np.abs(over - 1) <= 0.1),
        "interval_holds": np.mean((low <= 1) & (high >= 1)),
        "half_width": np.nanmedian(np.sqrt(high / low) - 1),
        "planned_too_much": np.mean(MARGIN * low > 1),
        "without_interval": np.mean(np.isnan(high)),
    }
    rounded = {name: round(float(figure), 3) for name, figure in figures.items()}
    return {"cell": cell.name, "searches": len(found), "truth_rps": round(truth, 2), **rounded}


if __name__ == "__main__":
    keep_runs("capacity_simulated", len(CELLS), run)
