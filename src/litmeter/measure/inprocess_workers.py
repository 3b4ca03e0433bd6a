"""The workers of an in-process subject: ``python -m litmeter.measure.inprocess_workers``.

Started by ``subjects.InProcess``, which writes jobs as lines of JSON and reads a line for each.
The model's libraries are loaded once, and the workers are forked from a process in which torch starts no
thread: as many at first as there are cores; on a GPU, others when so many are asked for.
"""

from __future__ import annotations

import importlib
import itertools
import json
import multiprocessing
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter, process_time, sleep
from typing import Any

import numpy as np
import torch

from litmeter.model.environment import modules_of
from litmeter.model.predictor import Predictor
from litmeter.params import ServeSettings
from litmeter.paths import ModelFolders
from litmeter.stats.records import block_rates
from litmeter.system.imports import freeze_gc_after

ANSWER_TIMEOUT_S = 300.0
BEGIN_S = 0.005
"""After this all workers begin at once, however late one of them wakes up."""
COMMON_SHARE = 0.5
"""Share of the time in which all workers have to run."""


def run_worker(
    parents_end: Connection,
    connection: Connection,
    folders: ModelFolders,
    device: str,
    settings: ServeSettings,
    photos: Sequence[bytes],
) -> None:
    """Load the model, send the number of torch's threads, then run batches on request until the parent dies.

    The request ``(kind of work, batch_size)`` is answered with None after a warm-up batch. The request
    ``(begin, seconds)`` that follows is answered with (start, end) of each batch from ``begin`` on, on the
    monotonic clock, and the CPU seconds of all threads.
    """
    parents_end.close()  # or it would not see that the parent died
    predictor = Predictor(folders, device, settings)
    next_photo = itertools.cycle(photos).__next__

    def images(number: int) -> list[torch.Tensor]:
        return [predictor.preprocess(next_photo()) for _ in range(number)]

    def run_batch(kind: str, batch: torch.Tensor) -> None:
        if kind == "preprocess":
            images(len(batch))
        elif kind == "pipeline":
            predictor.predict(images(len(batch)))
        else:
            predictor.forward(batch)
            if predictor.device.type == "cuda":
                torch.cuda.synchronize(predictor.device)

    connection.send(torch.get_num_threads())
    with suppress(EOFError):
        while True:
            kind, batch_size = connection.recv()
            batch = predictor.batch(images(batch_size))
            run_batch(kind, batch)
            connection.send(None)
            begin, seconds = connection.recv()
            batches: list[tuple[float, float]] = []
            sleep(max(0.0, begin - perf_counter()))
            cpu_s_before = process_time()
            while not batches or perf_counter() < begin + seconds:
                start = perf_counter()
                run_batch(kind, batch)
                batches.append((start, perf_counter()))
            connection.send((batches, process_time() - cpu_s_before))


def measure(
    workers: Sequence[Connection], kind: str, batch_size: int, seconds: float, tries: int = 3
) -> tuple[list[float], float]:
    """Images per second in the blocks of the window in which all ``workers`` ran, and CPU ms per image.

    Measured again, for twice as long, where that window is short, as one of them was kept from running. Where
    there is none at last, exit with the reason.
    """
    for connection in workers:
        connection.send((kind, batch_size))
    for connection in workers:
        receive(connection)
    begin = perf_counter() + BEGIN_S
    for connection in workers:
        connection.send((begin, seconds))
    batches_by_worker, cpu_s = zip(*(receive(connection) for connection in workers), strict=True)
    opened = max(batches[0][0] for batches in batches_by_worker)
    closed = min(batches[-1][1] for batches in batches_by_worker)
    if closed - opened < COMMON_SHARE * seconds and tries > 1:
        return measure(workers, kind, batch_size, 2 * seconds, tries - 1)
    if closed <= opened:
        sys.exit(f"{len(workers)} workers did not run at the same time in {seconds:g} s: the cores are busy")
    start, end = np.concatenate(batches_by_worker).T
    rates = [batch_size * float(rate) for rate in block_rates(start, end, opened, closed)]
    return rates, 1000 * sum(cpu_s) / (batch_size * len(start))


def receive(connection: Connection) -> Any:
    """A worker's next message; where none comes, exit with the reason."""
    if connection.poll(ANSWER_TIMEOUT_S):
        return connection.recv()
    sys.exit(f"a worker did not answer within {ANSWER_TIMEOUT_S:.0f} s")


def main() -> None:
    """Start the workers that the first line describes, then run a job per line and print its result."""
    setup = json.loads(sys.stdin.readline())
    photos = [Path(path).read_bytes() for path in setup["photos"]]
    settings = ServeSettings.model_validate(setup["settings"])
    folders = ModelFolders(Path(setup["exported"]), Path(setup["compiled"]))
    with freeze_gc_after():
        for name in modules_of(settings):
            importlib.import_module(name)
    arguments = (folders, setup["device"], settings, photos)
    workers, threads = start_workers(min(settings.workers_per_device, os.cpu_count() or 1), arguments)
    print(json.dumps(threads), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        if (missing := job["busy"] - len(workers)) > 0:
            workers += start_workers(missing, arguments)[0]
        result = measure(workers[: job["busy"]], job["kind"], job["batch_size"], job["seconds"])
        print(json.dumps(result), flush=True)


def start_workers(number: int, arguments: tuple[Any, ...]) -> tuple[list[Connection], int]:
    """Start workers that have loaded the model; return a connection to each, and torch's threads in one."""
    fork = multiprocessing.get_context("fork")
    workers = []
    for _ in range(number):
        connection, worker_end = fork.Pipe()
        fork.Process(target=run_worker, args=(connection, worker_end, *arguments), daemon=True).start()
        worker_end.close()
        workers.append(connection)
    threads = [receive(connection) for connection in workers]
    return workers, threads[0]


if __name__ == "__main__":
    try:
        main()
    except (EOFError, ConnectionError):
        sys.exit("a worker died; its error, if it had one, stands above")
