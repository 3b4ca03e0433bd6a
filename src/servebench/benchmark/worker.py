"""One process of the in-process baseline: loads the model, then runs batches when told to."""

from __future__ import annotations

import itertools
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter

import torch

from servebench.serving.classifier import Classifier


def run_worker(
    connection: Connection, folder: Path, device: str, precision: str, photos: list[bytes]
) -> None:
    """Answer orders until the other end closes.

    First sends the number of torch's threads, as a sign that the model is loaded. An order
    ``(work, batch_size)`` is answered with None after a first batch, which is thrown away; then
    ``seconds`` with the batches run, as pairs of start and end on the monotonic clock.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    classifier = Classifier(folder, device, precision)
    supply = itertools.cycle(photos)
    try:
        connection.send(torch.get_num_threads())
        while True:
            work, batch_size = connection.recv()
            batch = torch.stack([classifier.preprocess(next(supply)) for _ in range(batch_size)])
            batch = batch.to(classifier.device, classifier.dtype)

            def once(work: str = work, batch: torch.Tensor = batch) -> None:
                if work == "pipeline":
                    classifier.predict([classifier.preprocess(next(supply)) for _ in batch])
                    return
                classifier.forward(batch)
                if classifier.device.type == "cuda":
                    torch.cuda.synchronize(classifier.device)

            once()
            connection.send(None)
            seconds = connection.recv()
            done: list[tuple[float, float]] = []
            opened = perf_counter()
            while not done or perf_counter() - opened < seconds:
                start = perf_counter()
                once()
                done.append((start, perf_counter()))
            connection.send(done)
    except (EOFError, ConnectionError):
        return
