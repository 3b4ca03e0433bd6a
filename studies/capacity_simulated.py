"""How near a server's capacity comes to that of a simulated one with its batch times, workers and batching.

Batch times are the configuration's own, in-process with all workers busy, scaled so that the simulated peak
is the measured one, as HTTP process and load generator use the same cores. Nothing else costs time in the
simulation: what is missing to it is lost in queues that need not be, or by uneven service.
"""

from __future__ import annotations

import heapq
import sys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from litmeter.benchmark.capacity import CapacityMetrics
from litmeter.benchmark.rows import BaselineRow
from litmeter.params import ServeSettings, load_params
from litmeter.paths import BenchmarkPaths
from litmeter.report.capacity import read_capacity
from litmeter.system.files import read_rows
from studies.harness import write_result

RESULT = "capacity_simulated"
TARGET = 0.95
REQUESTS = 200_000
STEPS = 14
"""Of the bisection: its noise does not mislead it, as the simulation is long and its arrivals the same."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SimulatedServer:
    """Workers that take what waits, up to a batch, or wait for the next request.

    Attributes:
        sizes, batch_s: seconds of a batch by its size, interpolated.
    """

    workers: int
    max_batch_size: int
    sizes: tuple[int, ...]
    batch_s: tuple[float, ...]

    @property
    def peak_rps(self) -> float:
        """The rate with full batches."""
        return self.workers * self.max_batch_size / self.seconds(self.max_batch_size)

    def seconds(self, size: int) -> float:
        """Of a batch."""
        return float(np.interp(size, self.sizes, self.batch_s))

    def latencies_s(self, arrived: Floats) -> Floats:
        """Seconds from the arrival of each request to its answer."""
        free_at = [0.0] * self.workers
        found = np.empty(len(arrived))
        first = 0
        while first < len(arrived):
            begin = max(free_at[0], arrived[first])
            waiting = int(np.searchsorted(arrived, begin, side="right")) - first
            size = min(waiting, self.max_batch_size)
            end = begin + self.seconds(size)
            found[first : first + size] = end - arrived[first : first + size]
            heapq.heapreplace(free_at, end)
            first += size
        return found

    def capacity_share(self, slo_s: float, miss: float) -> float:
        """The capacity over the peak."""
        unit = np.cumsum(np.random.default_rng(0).exponential(1.0, REQUESTS))
        low, high = 0.05, 1.0
        for _ in range(STEPS):
            share = (low + high) / 2
            found = self.latencies_s(unit / (share * self.peak_rps))
            low, high = (share, high) if (found > slo_s).mean() <= miss else (low, share)
        return (low + high) / 2


def simulated_server(serve: ServeSettings, rows: list[BaselineRow], peak_rps: float) -> SimulatedServer:
    """The server with the in-process times of ``rows``, scaled to the measured peak."""
    sizes = tuple(row.batch_size for row in rows)
    in_process = tuple(row.batch_size * row.workers / row.pipeline_rps for row in rows)
    workers, max_batch_size = serve.workers_per_device, serve.max_batch_size
    scale = SimulatedServer(workers, max_batch_size, sizes, in_process).peak_rps / peak_rps
    scaled = tuple(scale * seconds for seconds in in_process)
    return SimulatedServer(workers, max_batch_size, sizes, scaled)


def compare(serve: ServeSettings, rows: list[BaselineRow], measured: CapacityMetrics) -> dict[str, float]:
    """The measured share of the peak, the simulated one, and their ratio."""
    assert measured.share is not None
    assert measured.peak_rps is not None
    server = simulated_server(serve, rows, measured.peak_rps)
    simulated = server.capacity_share(measured.slo_ms / 1000, measured.miss)
    return {
        "measured_share": measured.share,
        "simulated_share": round(simulated, 4),
        "ratio": round(measured.share / simulated, 4),
    }


def main() -> None:
    """Simulate each configuration whose capacity has been measured, print and keep the ratios."""
    params = load_params()
    result = {}
    for name in params.objective.configurations:
        measured = read_capacity(params, name)
        if measured.share is None:
            print(f"{name}: {measured.status}", file=sys.stderr)
            continue
        rows = read_rows(BenchmarkPaths(name).baseline, BaselineRow)
        result[name] = compare(params.configuration(name), rows, measured)
        print(f"{name}: {result[name]}")
    write_result(RESULT, {"target": TARGET, "configurations": result})


if __name__ == "__main__":
    main()
