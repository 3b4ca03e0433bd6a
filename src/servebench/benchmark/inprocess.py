"""The same model, precision and threads as the server's workers, in processes without a server.

Two kinds of work: the model alone, and the whole pipeline from image bytes to probabilities. Both
are measured before and after the load, as machines drift, while the processes sleep in between.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from servebench.benchmark.rows import BaselineRow
from servebench.errors import ServebenchError
from servebench.inference.environment import worker_environment
from servebench.params import BaselineSettings, ServeSettings
from servebench.paths import ModelFolders
from servebench.stats.rates import BLOCKS, Throughput, throughput
from servebench.system.processes import log_tail, process_group
from servebench.system.progress import bar
from servebench.system.temporary import scratch

WORKS = ("model", "pipeline")
PROBE_S = 0.3


class InProcess:
    """Workers that wait for orders, and what they have been measured to do.

    Attributes:
        threads: torch's threads in each worker.
        busy: how many of the workers are put to work: as many as do most together. A perfect server
            would leave the others idle, where their threads only take the cores from each other.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], log: Path, workers: int, settings: BaselineSettings
    ) -> None:
        self._process = process
        self._log = log
        self._settings = settings
        self._rates: dict[tuple[str, int], list[float]] = defaultdict(list)
        self._cpu_ms: dict[tuple[str, int], list[float]] = defaultdict(list)
        self.threads = int(self._answer())
        self.busy = self._best_layout(workers)

    def measure(self) -> None:
        """Run every kind of work at every batch size once."""
        sizes = self._settings.batch_sizes
        with bar(len(WORKS) * len(sizes), "in-process", "rate") as progress:
            for size, work in itertools.product(sizes, WORKS):
                rates, cpu_ms = self.run(work, size, self._settings.seconds, self.busy)
                self._rates[work, size] += rates
                self._cpu_ms[work, size].append(cpu_ms)
                progress.update()

    def rows(self) -> list[BaselineRow]:
        """The rates of all rounds so far, by batch size."""
        return [self._row(size) for size in self._settings.batch_sizes]

    def _row(self, size: int) -> BaselineRow:
        model, pipeline = (self._rate(work, size) for work in WORKS)
        rounds = self._rates["pipeline", size]
        return BaselineRow(
            batch_size=size,
            workers=self.busy,
            model_rps=round(model.rps, 2),
            model_low_rps=round(model.low_rps, 2),
            model_high_rps=round(model.high_rps, 2),
            pipeline_rps=round(pipeline.rps, 2),
            pipeline_low_rps=round(pipeline.low_rps, 2),
            pipeline_high_rps=round(pipeline.high_rps, 2),
            pipeline_before_rps=round(mean(rounds[:BLOCKS]), 2),
            pipeline_after_rps=round(mean(rounds[-BLOCKS:]), 2),
            pipeline_cpu_ms=round(mean(self._cpu_ms["pipeline", size]), 3),
            model_ms=round(1000 * size * self.busy / model.rps, 3),
        )

    def _rate(self, work: str, size: int) -> Throughput:
        return throughput(np.array(self._rates[work, size]))

    def _best_layout(self, workers: int) -> int:
        """Of 1, 2, 4 … and all workers, how many do the pipeline fastest, one image at a time."""
        if workers == 1:
            return 1
        choices = [*itertools.takewhile(lambda busy: busy < workers, (1 << k for k in range(16))), workers]
        means = [sum(self.run("pipeline", 1, PROBE_S, busy)[0]) for busy in choices]
        return choices[means.index(max(means))]

    def run(self, work: str, batch_size: int, seconds: float, busy: int) -> tuple[list[float], float]:
        """Images per second of ``busy`` workers, in equal parts of a window; CPU ms per image."""
        order = {"work": work, "batch_size": batch_size, "seconds": seconds, "busy": busy}
        self._send(order)
        rates, cpu_ms = self._answer()
        return rates, cpu_ms

    def _send(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise ServebenchError(f"the in-process baseline died (exit status {status}){log_tail(self._log)}")
        return json.loads(line)


@contextmanager
def inprocess_workers(
    folders: ModelFolders,
    serve: ServeSettings,
    device: str,
    photos: Sequence[Path],
    settings: BaselineSettings,
) -> Iterator[InProcess]:
    """As many processes as ``serve`` has workers, each with the model loaded.

    Args:
        photos: image files, which the pipeline takes from memory.

    Raises:
        ServebenchError: a worker failed; the message holds the end of its log.
    """
    order = {
        "exported": str(folders.exported),
        "compiled": str(folders.compiled),
        "device": device,
        "settings": serve.model_dump(),
        "photos": [str(path) for path in photos],
    }
    command = [sys.executable, "-m", "servebench.benchmark.inprocess_workers"]
    pipe = subprocess.PIPE
    with (
        scratch() as scratch_folder,
        (log := scratch_folder / "log").open("wb") as stderr,
        process_group(
            command,
            stdin=pipe,
            stdout=pipe,
            stderr=stderr,
            env=worker_environment(serve) | {"TMPDIR": str(scratch_folder)},
        ) as process,
    ):
        assert process.stdin is not None
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
        yield InProcess(process, log, serve.workers_per_device, settings)
