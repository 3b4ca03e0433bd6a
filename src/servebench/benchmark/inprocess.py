"""The in-process baseline: rates of a configuration's workers without a server.

Two kinds of work are measured: the model alone, and the pipeline from image bytes to probabilities.
Each is measured before and after the load on the server, as machines drift; in between the workers sleep.
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

WORK_KINDS = ("model", "pipeline")
PROBE_S = 0.3


class InProcessBaseline:
    """Measures workers that run in processes of their own.

    Attributes:
        threads: torch's threads in each worker.
        busy: number of workers that work at once: the number whose total rate is highest. More workers
            can be slower, where their threads outnumber the cores; a perfect server would leave some idle.
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
        self.busy = self._fastest_busy(workers)

    def measure(self) -> None:
        """Measure one round: each kind of work at each batch size."""
        sizes = self._settings.batch_sizes
        with bar(len(WORK_KINDS) * len(sizes), "in-process", "rate") as progress:
            for size, work in itertools.product(sizes, WORK_KINDS):
                rates, cpu_ms = self.run(work, size, self._settings.seconds, self.busy)
                self._rates[work, size] += rates
                self._cpu_ms[work, size].append(cpu_ms)
                progress.update()

    def rows(self) -> list[BaselineRow]:
        """The rates of all rounds so far, by batch size."""
        return [self._row(size) for size in self._settings.batch_sizes]

    def _row(self, size: int) -> BaselineRow:
        model, pipeline = (self._rate(work, size) for work in WORK_KINDS)
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

    def _fastest_busy(self, workers: int) -> int:
        """Of 1, 2, 4 … and all workers, the number that runs the pipeline fastest, one image at a time."""
        if workers == 1:
            return 1
        choices = [*itertools.takewhile(lambda busy: busy < workers, (1 << k for k in range(16))), workers]
        rates = {busy: sum(self.run("pipeline", 1, PROBE_S, busy)[0]) for busy in choices}
        return max(choices, key=lambda busy: rates[busy])

    def run(self, work: str, batch_size: int, seconds: float, busy: int) -> tuple[list[float], float]:
        """Images per second of ``busy`` workers in the blocks of a window, and CPU ms per image."""
        self._send({"work": work, "batch_size": batch_size, "seconds": seconds, "busy": busy})
        rates, cpu_ms = self._answer()
        return rates, cpu_ms

    def _send(self, job: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
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
) -> Iterator[InProcessBaseline]:
    """Run as many processes as ``serve`` has workers, each with the model loaded, until the block is left.

    Args:
        photos: image files, which the pipeline takes from memory.

    Raises:
        ServebenchError: a worker failed; the message holds the end of its log.
    """
    job = {
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
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()
        yield InProcessBaseline(process, log, serve.workers_per_device, settings)
