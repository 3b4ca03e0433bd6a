"""The processes of the in-process baseline: ``python -m servebench.benchmark.inprocess_workers``.

Started by ``inprocess_workers``, which sends orders as lines of JSON and gets one line for each. The
model's libraries are loaded once; the workers are forks, made before torch has started a thread.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch

from servebench.inference.predictor import Predictor
from servebench.params import ServeSettings
from servebench.paths import ModelFolders
from servebench.stats.rates import block_rates

STUCK_S = 300.0


def run_worker(
    connection: Connection,
    folders: ModelFolders,
    device: str,
    settings: ServeSettings,
    photos: Sequence[bytes],
) -> None:
    """Load the model, send the number of torch's threads, then run what is asked for.

    ``(work, batch_size)`` is answered with None after a first batch, which is thrown away; then
    ``seconds`` with the batches run, as pairs of start and end on the monotonic clock, and the CPU
    seconds of all threads.
    """
    predictor = Predictor(folders, device, settings)
    supply = itertools.cycle(photos)
    connection.send(torch.get_num_threads())
    while True:
        work, batch_size = connection.recv()
        batch = predictor.batch([predictor.preprocess(next(supply)) for _ in range(batch_size)])

        def once(work: str = work, batch: torch.Tensor = batch) -> None:
            if work == "pipeline":
                predictor.predict([predictor.preprocess(next(supply)) for _ in batch])
                return
            predictor.forward(batch)
            if predictor.device.type == "cuda":
                torch.cuda.synchronize(predictor.device)

        once()
        connection.send(None)
        seconds = connection.recv()
        done: list[tuple[float, float]] = []
        opened, used = perf_counter(), process_time()
        while not done or perf_counter() - opened < seconds:
            start = perf_counter()
            once()
            done.append((start, perf_counter()))
        connection.send((done, process_time() - used))


def measure(
    workers: Sequence[Connection], work: str, batch_size: int, seconds: float
) -> tuple[list[float], float]:
    """Images per second of ``workers`` in parts of the window in which all ran; CPU ms per image."""
    for connection in workers:
        connection.send((work, batch_size))
    for connection in workers:
        receive(connection)
    for connection in workers:
        connection.send(seconds)
    answers = [receive(connection) for connection in workers]
    batches = [own for own, _ in answers]
    cpu_s = sum(used for _, used in answers)
    opened = max(own[0][0] for own in batches)
    closed = min(own[-1][1] for own in batches)
    start, end = np.array(list(itertools.chain.from_iterable(batches))).T
    rates = [batch_size * float(rate) for rate in block_rates(start, end, opened, closed)]
    return rates, 1000 * cpu_s / (batch_size * len(start))


def receive(connection: Connection) -> Any:
    """What a worker sent; without an answer, this process ends with a word on why."""
    try:
        if connection.poll(STUCK_S):
            return connection.recv()
    except EOFError:
        sys.exit("a worker died; its error stands above")
    sys.exit(f"a worker did not answer within {STUCK_S:.0f} s")


def main() -> None:
    """Start the workers that the first line asks for, then answer one order a line."""
    order = json.loads(sys.stdin.readline())
    photos = [Path(path).read_bytes() for path in order["photos"]]
    fork = multiprocessing.get_context("fork")
    workers = []
    settings = ServeSettings.model_validate(order["settings"])
    folders = ModelFolders(Path(order["exported"]), Path(order["compiled"]))
    for _ in range(settings.workers_per_device):
        ours, theirs = fork.Pipe()
        arguments = (theirs, folders, order["device"], settings, photos)
        fork.Process(target=run_worker, args=arguments, daemon=True).start()
        theirs.close()
        workers.append(ours)
    threads = [receive(connection) for connection in workers]
    print(json.dumps(threads[0]), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        done = measure(workers[: order["busy"]], order["work"], order["batch_size"], order["seconds"])
        print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main()
