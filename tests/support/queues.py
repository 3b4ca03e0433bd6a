"""Queues of known capacity, first come, first served, that answer a schedule on a clock of their own."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from litmeter.load import LoadPlan, Trace
from litmeter.measure.figures import machine_row, served_row
from litmeter.measure.telemetry import Usage
from litmeter.measure.turn import MakeReady, Ready, Result, Sample, Schedule
from litmeter.stats.records import WINDOWS, Limits, LoadRecord, late_share
from tests.support.load import plan, record


@dataclass(frozen=True)
class Queue:
    """A server with ``slots``, each of which serves one request at a time.

    Attributes:
        service_s: mean time of service.
        random: service times are exponential; else constant.
        objective_s: of a request's time in the system.
        capacity_rps: the rate at which 5% of the requests take longer, by theory or by long simulation.
        burstiness: of the arrivals; see ``LoadPlan``.
    """

    name: str
    slots: int
    service_s: float
    random: bool
    objective_s: float
    capacity_rps: float
    burstiness: float = 1.0

    def load(self, plan: LoadPlan, begin_s: float, rng: np.random.Generator) -> LoadRecord:
        """Serve the requests of a closed loop, of random arrivals, or of a trace."""
        closed_loop = plan.rate_rps is None
        opens = begin_s + plan.warmup_s
        closes = opens + plan.min_s
        due = [begin_s] * plan.users
        if plan.due_s is not None:
            due = (begin_s + np.array(plan.due_s)).tolist()
        elif plan.rate_rps is not None:
            most = 1000 + int(2 * plan.rate_rps * (closes - begin_s))
            gaps = rng.gamma(plan.burstiness, 1 / (plan.burstiness * plan.rate_rps), most)
            due = (begin_s + np.cumsum(gaps)).tolist()
        slots, served = [begin_s] * self.slots, []
        while due and due[0] < closes:
            start = heapq.heappop(due)
            service_s = rng.exponential(self.service_s) if self.random else self.service_s
            end = max(start, slots[0]) + service_s
            heapq.heapreplace(slots, end)
            served.append((start, end))
            if closed_loop:
                heapq.heappush(due, end)
        start, end = np.array(served).reshape(-1, 2).T
        edges = np.linspace(opens, closes, WINDOWS + 1)
        return record(start, end, users=plan.users, rate_rps=plan.rate_rps, edges=edges)


QUEUES = (
    Queue("M/D/2, 5 ms, 50 ms", 2, 0.005, False, 0.05, 368.5),
    Queue("M/D/2, 5 ms, 15 ms", 2, 0.005, False, 0.015, 282.6),
    # The time in an M/M/1 queue is exponential with rate mu - lambda.
    Queue("M/M/1, 5 ms, 50 ms", 1, 0.005, True, 0.05, 200 - math.log(20) / 0.05),
    Queue("M/D/1, 20 ms, 100 ms", 1, 0.02, False, 0.1, 34.7),
    Queue("in bursts, D/2, 5 ms, 50 ms", 2, 0.005, False, 0.05, 288.0, burstiness=0.25),
)


def times_a_trace(queue: Queue, trace: Trace) -> float:
    """How many times a trace a queue can take: played as a whole, 5% of its requests miss the objective."""
    low, high = 0.1, 2 * queue.slots / queue.service_s / trace.rate_rps
    for _ in range(9):
        scale = math.sqrt(low * high)
        seconds = max(60.0, trace.period_s / scale)
        due_s, _ = trace.stretch(0.0, scale, seconds)
        whole = replace(plan(1, rate_rps=1.0, warmup_s=0.0, min_s=seconds), due_s=due_s)
        own = queue.load(whole, 0.0, np.random.default_rng(1))
        kept = (late_share(own, Limits(1000 * queue.objective_s)) or 0.0) <= 0.05
        low, high = (scale, high) if kept else (low, scale)
    return math.sqrt(low * high)


def drive(
    schedule: Schedule[Result], queues: Mapping[str, Queue], seed: int = 1
) -> tuple[Result, list[Sample]]:
    """Run a schedule; return its result and all samples."""
    rng, now_s, samples = np.random.default_rng(seed), 0.0, list[Sample]()
    try:
        asked = next(schedule)
        while True:
            answer: Sample | Ready
            if isinstance(asked, MakeReady):
                answer = Ready(asked.names, now_s)
            else:
                assert isinstance(asked.load, LoadPlan)
                own = queues[asked.subject].load(asked.load, now_s, rng)
                seconds = max(own.window_edges[-1], own.end.max()) - now_s
                row = machine_row(asked, len(samples), now_s, seconds, Usage())
                answer = Sample(asked, served_row(row, asked, own, Usage()), own)
                samples.append(answer)
                now_s += seconds
            asked = schedule.send(answer)
    except StopIteration as ended:
        return ended.value, samples
