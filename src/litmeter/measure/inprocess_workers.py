"""The workers of an in-process subject: ``python -m litmeter.measure.inprocess_workers``.

``subjects.InProcess`` starts this process, writes jobs as lines of JSON, and reads a line for each job. At
first as many workers start as there are cores, and more as soon as a job asks for them; they ``stay`` for
the next, or end with that job. The kind says whether workers are forked, after loading its libraries, or
spawned.
"""

from __future__ import annotations

import importlib
import json
import math
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from statistics import median
from time import perf_counter, process_time, sleep
from typing import Any

import numpy as np

from litmeter.kinds.configuration import ANSWER_TIMEOUT_S, Configuration, Pipeline
from litmeter.stats.records import block_rates
from litmeter.system.cores import available_cores

BEGIN_S = 0.005
"""Delay until all workers begin at once, so that one may wake up late."""
COMMON_SHARE = 0.5
"""Minimum share of the time in which all workers must run."""


def run_worker(
    connection: Connection, build: Callable[[], Pipeline], inherited: Connection | None = None
) -> None:
    """Load the model, send its number of threads, then run batches on request until the parent dies.

    A request has two messages. ``(kind of work, batch_size, threads)`` is answered with None after a warm-up
    batch; ``threads`` are torch's, None: unchanged. ``(begin, seconds)`` is answered with the (start, end) of
    each batch from ``begin`` on, on the monotonic clock, the CPU seconds of all threads, and the seconds
    until the first piece of each answer that streams.

    Args:
        inherited: in a forked worker, the parent's end of the connection.
    """
    if inherited is not None:
        inherited.close()  # or the worker would not notice the parent's death
    pipeline = build()
    connection.send(pipeline.threads)
    with suppress(EOFError):
        while True:
            kind, batch_size, threads = connection.recv()
            with threads_of_torch(threads):
                batch = pipeline.batch(batch_size)
                pipeline.run(kind, batch_size, batch)
                connection.send(None)
                begin, seconds = connection.recv()
                batches: list[tuple[float, float]] = []
                firsts: list[float] = []
                sleep(max(0.0, begin - perf_counter()))
                cpu_s_before = process_time()
                while not batches or perf_counter() < begin + seconds:
                    start = perf_counter()
                    first_s = pipeline.run(kind, batch_size, batch)
                    batches.append((start, perf_counter()))
                    firsts += [] if first_s is None else [first_s]
                connection.send((batches, process_time() - cpu_s_before, firsts))


@contextmanager
def threads_of_torch(number: int | None) -> Iterator[None]:
    """Set torch's number of threads within the block, if torch is loaded; None: unchanged."""
    torch = sys.modules.get("torch")
    if torch is None or number is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(
    workers: Sequence[Connection],
    kind: str,
    batch_size: int,
    seconds: float,
    tries: int = 3,
    threads: int | None = None,
) -> tuple[list[float], float, float | None]:
    """Images per second in blocks of the window in which all ``workers`` ran, CPU ms per image, and the
    median ms until the first piece (None: the answers do not stream).

    If a worker was kept from running, so that the window is short, measure again for twice as long; exit if
    there is no such window at last. ``threads``: torch's, of each worker; None: unchanged.
    """
    for connection in workers:
        connection.send((kind, batch_size, threads))
    for connection in workers:
        receive(connection)
    begin = perf_counter() + BEGIN_S
    for connection in workers:
        connection.send((begin, seconds))
    batches_by_worker, cpu_s, firsts = zip(*(receive(connection) for connection in workers), strict=True)
    opened = max(batches[0][0] for batches in batches_by_worker)
    closed = min(batches[-1][1] for batches in batches_by_worker)
    if closed - opened < COMMON_SHARE * seconds and tries > 1:
        return measure(workers, kind, batch_size, 2 * seconds, tries - 1, threads)
    if closed <= opened:
        sys.exit(f"{len(workers)} workers did not run at the same time in {seconds:g} s: the cores are busy")
    start, end = np.concatenate(batches_by_worker).T
    rates = [batch_size * float(rate) for rate in block_rates(start, end, opened, closed)]
    first_s = [one for own in firsts for one in own]
    return rates, 1000 * sum(cpu_s) / (batch_size * len(start)), 1000 * median(first_s) if first_s else None


def receive(connection: Connection) -> Any:
    """A worker's next message; where none comes, exit with the reason."""
    if connection.poll(ANSWER_TIMEOUT_S):
        return connection.recv()
    sys.exit(f"a worker did not answer within {ANSWER_TIMEOUT_S:.0f} s")


def main() -> None:
    """Start the workers that the first line describes, then run a job per line and print its result."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a LitAPI's prints go to the log
    setup = json.loads(sys.stdin.readline())
    found: type[Configuration] = getattr(importlib.import_module(setup["module"]), setup["class"])
    configuration = found.model_validate(setup["settings"])
    start = partial(start_workers, *configuration.pipeline(setup["inputs"], setup["device"]))
    workers, threads = start(min(configuration.workers, math.ceil(available_cores())))
    print(json.dumps(threads), file=answers, flush=True)
    for line in sys.stdin:
        job, had = json.loads(line), len(workers)
        if (missing := job["busy"] - had) > 0:
            workers += start(missing)[0]
        kind, size, seconds, threads = (job[key] for key in ("kind", "batch_size", "seconds", "threads"))
        busy = [connection for _, connection in workers[: job["busy"]]]
        result = measure(busy, kind, size, seconds, threads=threads)
        if not job["stay"]:
            for process, connection in workers[had:]:
                process.terminate()
                process.join()
                connection.close()
            del workers[had:]
        print(json.dumps(result), file=answers, flush=True)


def start_workers(
    method: str, build: Callable[[], Pipeline], number: int
) -> tuple[list[tuple[BaseProcess, Connection]], int]:
    """Start workers, which load the model; return each with a connection, and one's number of threads."""
    context: Any = multiprocessing.get_context(method)
    workers = []
    for _ in range(number):
        connection, worker_end = context.Pipe()
        arguments = (worker_end, build, *([connection] if method == "fork" else []))
        process = context.Process(target=run_worker, args=arguments, daemon=True)
        process.start()
        worker_end.close()
        workers.append((process, connection))
    threads = [receive(connection) for _, connection in workers]
    return workers, threads[0]


if __name__ == "__main__":
    from litmeter.measure import inprocess_workers  # a script may take the place of __main__

    try:
        inprocess_workers.main()
    except (EOFError, ConnectionError):
        sys.exit("a worker died; its error, if it had one, stands above")
