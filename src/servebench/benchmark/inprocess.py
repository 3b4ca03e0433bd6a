"""The same model, precision and threads as the server's workers, in processes without a server.

Two kinds of work: the model alone, and the whole pipeline from image bytes to probabilities. Both
are measured before and after the load, as machines drift, while the processes sleep in between.
"""

from __future__ import annotations

import itertools
import multiprocessing
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from servebench.errors import ServebenchError
from servebench.measure.rates import Floats, Throughput, part_rates, throughput
from servebench.params import BaselineSettings, ServeSettings
from servebench.progress import bar

WORKS = ("model", "pipeline")
PROBE_S = 0.3
STUCK_S = 300.0


class BaselineRow(TypedDict):
    """One row of plots/baseline/<experiment>.csv: images per second of all busy workers together."""

    batch_size: int
    workers: int
    model_rps: float
    model_low_rps: float
    model_high_rps: float
    pipeline_rps: float
    pipeline_low_rps: float
    pipeline_high_rps: float


class InProcess:
    """Workers that wait for orders, and what they have been measured to do.

    Attributes:
        threads: torch's threads in each worker.
        busy: how many of the workers are put to work: as many as do most together. A perfect server
            would leave the others idle, where their threads only take the cores from each other.
    """

    def __init__(self, connections: Sequence[Connection], settings: BaselineSettings) -> None:
        self._connections = connections
        self._settings = settings
        self._rates: dict[tuple[str, int], list[Floats]] = defaultdict(list)
        self.threads: int = max([_receive(connection) for connection in connections])
        self.busy = self._best_layout()

    def measure(self) -> None:
        """Run every kind of work at every batch size once."""
        sizes = self._settings.batch_sizes
        with bar(len(WORKS) * len(sizes), "in-process", "rate") as progress:
            for size, work in itertools.product(sizes, WORKS):
                rates = self._run(work, size, self._settings.seconds, self.busy)
                self._rates[work, size].append(rates)
                progress.update()

    def rows(self) -> list[BaselineRow]:
        """The rates of all rounds so far, by batch size."""
        rows: list[BaselineRow] = []
        for size in self._settings.batch_sizes:
            model, pipeline = (self._rate(work, size) for work in WORKS)
            rows.append(
                {
                    "batch_size": size,
                    "workers": self.busy,
                    "model_rps": round(model.rps, 2),
                    "model_low_rps": round(model.low_rps, 2),
                    "model_high_rps": round(model.high_rps, 2),
                    "pipeline_rps": round(pipeline.rps, 2),
                    "pipeline_low_rps": round(pipeline.low_rps, 2),
                    "pipeline_high_rps": round(pipeline.high_rps, 2),
                }
            )
        return rows

    def _rate(self, work: str, size: int) -> Throughput:
        return throughput(np.concatenate(self._rates[work, size]))

    def _best_layout(self) -> int:
        """Of 1, 2, 4 … and all workers, how many do the pipeline fastest, one image at a time."""
        most = len(self._connections)
        choices: list[int] = sorted({*itertools.takewhile(lambda n: n < most, (2**k for k in range(16))), most})
        if len(choices) == 1:
            return most
        rates: dict[int, float] = {busy: float(self._run("pipeline", 1, PROBE_S, busy).mean()) for busy in choices}
        return max(rates, key=lambda busy: rates[busy])

    def _run(self, work: str, size: int, seconds: float, busy: int) -> Floats:
        """Images per second of ``busy`` workers, in parts of the window in which all of them ran."""
        workers = self._connections[:busy]
        for connection in workers:
            connection.send((work, size))
        for connection in workers:
            _receive(connection)
        for connection in workers:
            connection.send(seconds)
        batches = [_receive(connection) for connection in workers]
        opened = max(own[0][0] for own in batches)
        closed = min(own[-1][1] for own in batches)
        start, end = np.array(list(itertools.chain.from_iterable(batches))).T
        return size * part_rates(start, end, opened, closed)


@contextmanager
def inprocess_workers(
    folder: Path,
    serve: ServeSettings,
    device: str,
    photos: Sequence[bytes],
    settings: BaselineSettings,
) -> Iterator[InProcess]:
    """As many processes as ``serve`` has workers, each with the model in ``folder`` loaded.

    Args:
        photos: image files in memory, what the pipeline starts from.

    Raises:
        ServebenchError: a worker failed.
    """
    context = multiprocessing.get_context("forkserver")
    # The fork server loads torch and timm once; the workers are its forks.
    context.set_forkserver_preload(["servebench.benchmark.worker"])
    with ExitStack() as stack:
        connections = []
        for _ in range(serve.workers_per_device):
            ours, theirs = context.Pipe()
            arguments = (theirs, folder, device, serve.precision, list(photos))
            process = context.Process(target=_worker, args=arguments, daemon=True)
            process.start()
            theirs.close()
            stack.callback(_end, process, ours)
            connections.append(ours)
        yield InProcess(connections, settings)


def _worker(*arguments: Any) -> None:
    """What a worker runs; the import is its own, as this process has no use for torch."""
    from servebench.benchmark.worker import run_worker

    run_worker(*arguments)


def _end(process: ForkServerProcess, connection: Connection) -> None:
    connection.close()
    process.kill()
    process.join()
    process.close()


def _receive(connection: Connection) -> Any:
    try:
        if connection.poll(STUCK_S):
            return connection.recv()
    except (EOFError, ConnectionError):
        raise ServebenchError("a process of the in-process baseline died; its error stands above") from None
    raise ServebenchError(f"the in-process baseline did not answer within {STUCK_S:.0f} s")
