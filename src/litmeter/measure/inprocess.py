"""Rates of a configuration's workers in-process, without a server.

For the baseline of a benchmark, the model alone is measured, and the pipeline from image bytes to
probabilities, in rounds before, amid and after the load on the server, as machines drift. A comparison asks
for the pipeline alone, in its own rounds. In between the workers sleep.
"""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import TypeVar

import numpy as np

from litmeter.errors import LitmeterError
from litmeter.measure.rows import BaselineRow, RoundRow
from litmeter.measure.telemetry import available_cores
from litmeter.model.environment import worker_environment
from litmeter.params import BaselineSettings, ServeSettings
from litmeter.paths import ModelFolders
from litmeter.stats.rates import throughput_of_rounds
from litmeter.stats.records import Floats
from litmeter.system.processes import JsonLinesProcess, process_group
from litmeter.system.progress import bar, print_wrapped
from litmeter.system.temporary import scratch

Result = TypeVar("Result")

ONE_THREAD = "pipeline on one thread"
"""Measured for its CPU time: several threads spin while they wait for each other, which is no work."""
PROBE_S, HOPELESS = 0.3, 1 / 3
"""Of the search for the number of busy workers. Each number has two probes, of which the slower one counts,
as threads that outnumber the cores spin in most of them; or one, below HOPELESS of the fastest rate so far.
It ends where not even the faster probe of more workers is faster."""
LONGEST_BATCH_S = 1.0
"""Larger batches are not measured: a slow model would take minutes for them."""
SIZE_PROBES = 2
"""Of each batch size, before the fastest is chosen."""


class InProcessBaseline:
    """Measures workers that run in processes of their own, once they are ready.

    Args:
        cores: that the workers share; 0 where they compute on a GPU.

    Attributes:
        threads: torch's threads in each worker.
        busy: number of workers that work at once: the number whose total rate is highest. More workers
            can be slower, where their threads outnumber the cores; a perfect server would leave some idle.
        work_kinds: what is measured; the last one shows the CPU time of the pipeline.
        batch_sizes: those of the settings that take no longer than LONGEST_BATCH_S, and the smallest.
    """

    threads = busy = _rounds = 0
    work_kinds: Sequence[str] = ()
    batch_sizes: Sequence[int] = ()

    def __init__(
        self, conversation: JsonLinesProcess, workers: int, settings: BaselineSettings, cores: float
    ) -> None:
        self._conversation = conversation
        self._workers = workers
        self._cores = cores
        self._settings = settings
        self._rates: dict[tuple[str, int], list[Floats]] = defaultdict(list)
        self._cpu_ms: dict[tuple[str, int], list[float]] = defaultdict(list)

    def measure(self) -> None:
        """Measure a round: each kind of work at each batch size, every other round in the reverse order.

        The CPU time of one thread, which hardly varies, is measured in the first round only.

        Raises:
            LitmeterError: a worker failed; the message holds the end of its log.
        """
        if not self.busy:
            self.wait_until_ready()
        works = list(itertools.product(self.batch_sizes, self.work_kinds))
        if self._rounds:
            works = [(size, work) for size, work in works if work != ONE_THREAD]
        if self._rounds % 2:
            works.reverse()
        self._rounds += 1
        with bar(len(works), "in-process", "rate") as progress:
            for size, work in works:
                busy = 1 if work == ONE_THREAD else self.busy
                rates, cpu_ms = self.run(work, size, self._settings.seconds, busy)
                self._rates[work, size].append(np.array(rates))
                self._cpu_ms[work, size].append(cpu_ms)
                progress.update()

    def wait_until_ready(self) -> None:
        """Wait until the workers have loaded the model, and find out how many of them are best kept busy.

        Raises:
            LitmeterError: a worker failed; the message holds the end of its log.
        """
        if not self.threads:
            self.wait_until_loaded()
        self.work_kinds = ("model", "pipeline", *((ONE_THREAD,) if self.threads > 1 else ()))
        self.busy, image_s = self._fastest_busy()
        smallest = min(self._settings.batch_sizes)
        self.batch_sizes = [
            size
            for size in self._settings.batch_sizes
            if size == smallest or size * image_s <= LONGEST_BATCH_S
        ]

    def wait_until_loaded(self) -> None:
        """Wait until workers have loaded the model: they can be told to ``run`` then."""
        self.threads = int(self._conversation.answer())

    def rows(self) -> list[BaselineRow]:
        """The rates of all rounds so far, by batch size."""
        return [self._row(size) for size in self.batch_sizes]

    def rounds(self) -> list[RoundRow]:
        """The rate of each round so far, of model and pipeline."""
        return [
            RoundRow(number, work, size, round(float(rates.mean()), 3))
            for (work, size), by_round in self._rates.items()
            if work != ONE_THREAD
            for number, rates in enumerate(by_round)
        ]

    def _row(self, size: int) -> BaselineRow:
        model, pipeline = (throughput_of_rounds(self._rates[work, size]) for work in ("model", "pipeline"))
        by_round = [float(rates.mean()) for rates in self._rates["pipeline", size]]
        return BaselineRow(
            batch_size=size,
            workers=self.busy,
            model_rps=round(model.rps, 2),
            model_low_rps=round(model.low_rps, 2),
            model_high_rps=round(model.high_rps, 2),
            pipeline_rps=round(pipeline.rps, 2),
            pipeline_low_rps=round(pipeline.low_rps, 2),
            pipeline_high_rps=round(pipeline.high_rps, 2),
            pipeline_slowest_rps=round(min(by_round), 2),
            pipeline_fastest_rps=round(max(by_round), 2),
            pipeline_cpu_ms=round(mean(self._cpu_ms[self.work_kinds[-1], size]), 3),
            model_ms=round(1000 * size * self.busy / model.rps, 3),
        )

    def _fastest_busy(self) -> tuple[int, float]:
        """The number of workers that runs the pipeline fastest, one image at a time.

        As many as have a core for each of their threads, twice as many, and so on to all: fewer are slower.

        Returns:
            The number, and the seconds that one of them takes for an image.
        """
        fewest = max(1, int(self._cores / self.threads))
        doubled = (fewest << k for k in range(16))
        choices = [*itertools.takewhile(lambda busy: busy < self._workers, doubled), self._workers]
        rates: dict[int, float] = {}
        for busy in choices:
            fastest_rps = max(rates.values(), default=0.0)
            probes = [self._probe(busy)]
            if len(choices) > 1 and probes[0] > HOPELESS * fastest_rps:
                probes.append(self._probe(busy))
            if max(probes) <= fastest_rps:
                break
            rates[busy] = min(probes)
        fastest = max(rates, key=lambda busy: rates[busy])
        return fastest, fastest / rates[fastest]

    def _probe(self, busy: int) -> float:
        """Images per second of so many workers, one image at a time."""
        return mean(self.run("pipeline", 1, PROBE_S, busy)[0])

    def run(self, work: str, batch_size: int, seconds: float, busy: int) -> tuple[list[float], float]:
        """Images per second of ``busy`` workers in the blocks of a window, and CPU ms per image."""
        self._conversation.send({"work": work, "batch_size": batch_size, "seconds": seconds, "busy": busy})
        rates, cpu_ms = self._conversation.answer()
        return rates, cpu_ms


@contextmanager
def inprocess_workers(
    folders: ModelFolders,
    serve: ServeSettings,
    device: str,
    photos: Sequence[Path],
    settings: BaselineSettings,
) -> Iterator[InProcessBaseline]:
    """Run processes with the model until the block is left: up to as many as ``serve`` has workers.

    On a CPU no more of them are kept busy than there are cores. They load the model meanwhile:
    ``wait_until_ready`` waits for them, as the first ``measure`` does.

    Args:
        photos: image files, which the pipeline takes from memory.
    """
    job = {
        "exported": str(folders.exported),
        "compiled": str(folders.compiled),
        "device": device,
        "settings": serve.model_dump(),
        "photos": [str(path) for path in photos],
    }
    command = [sys.executable, "-m", "litmeter.measure.inprocess_workers"]
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
        conversation = JsonLinesProcess(process, log, "the in-process baseline", LitmeterError)
        conversation.send(job)
        workers, cores = serve.workers_per_device, 0.0
        if device == "cpu":  # more than there are cores would only take turns
            cores = available_cores()
            workers = min(workers, math.ceil(cores))
        yield InProcessBaseline(conversation, workers, settings, cores)


class Pipeline:
    """One pipeline, in processes of its own."""

    def __init__(self, processes: InProcessBaseline) -> None:
        self.processes = processes
        self._batch_size: dict[int, int] = {}

    def rate_rps(self, largest: int) -> float:
        """Images per second of all busy workers, in batches of the fastest size up to ``largest``.

        Raises:
            LitmeterError: a worker failed.
        """
        if largest not in self._batch_size:
            self._batch_size[largest] = self._fastest_size(largest)
        return self._rate(self._batch_size[largest])

    def _fastest_size(self, largest: int) -> int:
        """The fastest size up to ``largest``, by SIZE_PROBES of each; the smallest, if all are larger."""
        sizes = self.processes.batch_sizes
        possible = [size for size in sizes if size <= largest] or [min(sizes)]
        if len(possible) == 1:
            return possible[0]
        rates = {size: mean(self._rate(size) for _ in range(SIZE_PROBES)) for size in possible}
        return max(rates, key=lambda size: rates[size])

    def _rate(self, batch_size: int) -> float:
        rates, _ = self.processes.run("pipeline", batch_size, PROBE_S, self.processes.busy)
        return mean(rates)


class Pipelines:
    """The pipelines of configurations, by their names; the processes sleep while nobody asks for a rate.

    One that fails is dropped, which is said: it costs no served rate.
    """

    def __init__(self, by_name: Mapping[str, Pipeline], configurations: Mapping[str, ServeSettings]) -> None:
        self._by_name = dict(by_name)
        self._configurations = configurations

    @property
    def names(self) -> set[str]:
        """The configurations whose pipelines run."""
        return set(self._by_name)

    def prepare(self, users: Sequence[int]) -> None:
        """Wait until the models are loaded; find the numbers of busy workers and the batch sizes."""
        for pipeline in self._all():
            self._try(pipeline, pipeline.processes.wait_until_loaded)
        for pipeline in self._all():  # one by one, once nothing loads any more
            self._try(pipeline, pipeline.processes.wait_until_ready)
        for name in self.names:
            for count in users:
                self.rate_rps(name, count)

    def rate_rps(self, name: str, users: int) -> float | None:
        """Images per second, in batches that ``users`` can form; None where no such pipeline runs."""
        pipeline = self._by_name.get(name)
        if pipeline is None:
            return None
        largest = min(self._configurations[name].max_batch_size, users)
        return self._try(pipeline, lambda: pipeline.rate_rps(largest))

    def _all(self) -> list[Pipeline]:
        """Each once."""
        return list(dict.fromkeys(self._by_name.values()))

    def _try(self, pipeline: Pipeline, action: Callable[[], Result]) -> Result | None:
        try:
            return action()
        except LitmeterError as error:
            names = [name for name, own in self._by_name.items() if own is pipeline]
            say_without(names, error)
            for name in names:
                del self._by_name[name]
            return None


def say_without(names: Sequence[str], error: Exception) -> None:
    """Say that these configurations have no pipeline any more, and why."""
    print_wrapped(f"no in-process rates of {', '.join(names)} in the rounds: {error}")
