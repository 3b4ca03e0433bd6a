"""The same model, precision, workers and threads as a server's, without the server.

Each worker is a process of its own that loops over batches: the model alone, and the whole way from
image bytes to probabilities. What they do together in a common window is the rate.
"""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from time import perf_counter
from typing import Literal, TypedDict

import numpy as np
import torch

from servebench.errors import ServebenchError
from servebench.measure.rates import Throughput, throughput
from servebench.params import BaselineSettings, ServeSettings
from servebench.progress import bar
from servebench.results import rounded
from servebench.serving.classifier import Classifier

Work = Literal["model", "pipeline"]
Interval = tuple[float, float]
"""Start and end of one batch, seconds of the monotonic clock."""
MIN_BATCHES = 3
STUCK_S = 300.0


class BaselineRow(TypedDict):
    """One row of plots/baseline/<experiment>.csv: images per second of all workers together."""

    batch_size: int
    model_rps: float
    model_low_rps: float
    model_high_rps: float
    pipeline_rps: float
    pipeline_low_rps: float
    pipeline_high_rps: float


def measure_inprocess(
    folder: Path,
    serve: ServeSettings,
    device: str,
    photos: Sequence[bytes],
    settings: BaselineSettings,
) -> list[BaselineRow]:
    """Rates of ``serve``'s worker layout at each batch size, from image files in memory.

    Raises:
        ServebenchError: a worker failed.
    """
    rows: list[BaselineRow] = []
    steps = 2 * len(settings.batch_sizes)
    with (
        _workers(folder, serve, device, photos) as workers,
        bar(steps, "in-process", "rate") as progress,
    ):
        for size in settings.batch_sizes:
            rates = {}
            for work in ("model", "pipeline"):
                rates[work] = _rate(workers, work, size, settings.seconds)
                progress.update()
            model, pipeline = rates["model"], rates["pipeline"]
            rows.append(
                {
                    "batch_size": size,
                    "model_rps": round(model.rps, 2),
                    "model_low_rps": round(model.low_rps, 2),
                    "model_high_rps": round(model.high_rps, 2),
                    "pipeline_rps": round(pipeline.rps, 2),
                    "pipeline_low_rps": round(pipeline.low_rps, 2),
                    "pipeline_high_rps": round(pipeline.high_rps, 2),
                }
            )
    return rows


@contextmanager
def _workers(
    folder: Path, serve: ServeSettings, device: str, photos: Sequence[bytes]
) -> Iterator[list[Connection]]:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(serve.workers_per_device)
    with ExitStack() as stack:
        connections = []
        for _ in range(serve.workers_per_device):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_worker,
                args=(theirs, barrier, folder, device, serve.precision, list(photos)),
                daemon=True,
            )
            process.start()
            theirs.close()
            stack.callback(_end, process, ours)
            connections.append(ours)
        for connection in connections:
            _receive(connection)  # the model is loaded
        yield connections


def _end(process: BaseProcess, connection: Connection) -> None:
    connection.close()
    process.kill()
    process.join()
    process.close()


def _rate(workers: list[Connection], work: Work, batch_size: int, seconds: float) -> Throughput:
    """Images per second of all workers, in the window in which every one of them was busy."""
    for connection in workers:
        connection.send((work, batch_size, seconds))
    batches = [_receive(connection) for connection in workers]
    opened = max(own[0][0] for own in batches)
    closed = min(own[-1][1] for own in batches)
    start, end = np.array(list(itertools.chain.from_iterable(batches))).T
    rate = throughput(start, end, opened, closed)
    return Throughput(*(batch_size * value for value in (rate.rps, rate.low_rps, rate.high_rps)))


def _receive(connection: Connection) -> list[Interval]:
    try:
        if connection.poll(STUCK_S):
            received: list[Interval] = connection.recv()
            return received
    except (EOFError, ConnectionResetError):
        raise ServebenchError("a process of the in-process baseline died; see above") from None
    raise ServebenchError(f"the in-process baseline did not answer within {STUCK_S:.0f} s")


def _worker(
    connection: Connection,
    barrier: Barrier,
    folder: Path,
    device: str,
    precision: str,
    photos: list[bytes],
) -> None:
    """Load the model, then run what is asked for until the other end closes."""
    classifier = Classifier(folder, device, precision)
    connection.send([])
    while True:
        try:
            work, batch_size, seconds = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(_run(classifier, barrier, work, batch_size, seconds, photos))


def _run(
    classifier: Classifier,
    barrier: Barrier,
    work: Work,
    batch_size: int,
    seconds: float,
    photos: list[bytes],
) -> list[Interval]:
    """Batches of ``work`` for ``seconds``, at least MIN_BATCHES; a first one is thrown away."""
    supply = itertools.cycle(photos)
    batch = torch.stack([classifier.preprocess(next(supply)) for _ in range(batch_size)])
    batch = batch.to(classifier.device, classifier.dtype)

    def once() -> None:
        if work == "model":
            classifier.forward(batch)
            if classifier.device.type == "cuda":
                torch.cuda.synchronize(classifier.device)
        else:
            classifier.predict([classifier.preprocess(next(supply)) for _ in range(batch_size)])

    once()
    barrier.wait()
    done: list[Interval] = []
    opened = perf_counter()
    while perf_counter() - opened < seconds or len(done) < MIN_BATCHES:
        start = perf_counter()
        once()
        done.append((start, perf_counter()))
    return done


def best_rates(rows: Sequence[BaselineRow]) -> tuple[float, float]:
    """The highest rate of the model alone, and of the whole pipeline, over the batch sizes."""
    return max(row["model_rps"] for row in rows), max(row["pipeline_rps"] for row in rows)


def efficiency(served_rps: float | None, pipeline_rps: float) -> float | None:
    """Served rate as a share of what the same processes do without a server."""
    return None if served_rps is None else rounded(served_rps / pipeline_rps, 3)
