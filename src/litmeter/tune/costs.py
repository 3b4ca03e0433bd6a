"""Measures the costs of the parts of all configurations, in-process and by servers with a null model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from litmeter.benchmark.inprocess import InProcessBaseline, inprocess_workers
from litmeter.benchmark.overheads import measure_null_server
from litmeter.errors import LoadError
from litmeter.loadgen import LoadGenerator
from litmeter.params import BaselineSettings, LoadSettings, ServeSettings
from litmeter.paths import ModelFolders
from litmeter.serving.launcher import running_server
from litmeter.system.progress import bar
from litmeter.tune.prediction import Costs, ModelPart
from litmeter.tune.record import Record

SECONDS, ROUNDS = 0.15, 2
"""Of each window, and windows per batch size: the second round has the reverse order of the first."""


@dataclass(frozen=True)
class CostMeter:
    """Measures what is not on record, and keeps it.

    Attributes:
        cores: of the CPU.
        photos: image files.
        load: with the number of users of the race.
    """

    record: Record
    folders: ModelFolders
    device: str
    cores: int
    photos: Sequence[Path]
    generator: LoadGenerator
    load: LoadSettings

    def costs_of(self, configurations: Iterable[ServeSettings]) -> Costs:
        """The costs of all parts of ``configurations``.

        Raises:
            LitmeterError: a model cannot be run, or a server with a null model did not answer.
        """
        sizes: dict[ModelPart, set[int]] = {}
        by_part: dict[ModelPart, ServeSettings] = {}
        by_preprocess: dict[str, ServeSettings] = {}
        transports = set()
        for one in configurations:
            part = ModelPart.of(one)
            sizes.setdefault(part, {1}).add(one.max_batch_size)
            by_part.setdefault(part, one)
            if one.keep_freed_memory or one.preprocess not in by_preprocess:
                by_preprocess[one.preprocess] = one
            transports.add(one.transport)
        model, preprocess, request = (self.record.costs(kind) for kind in ("model", "preprocess", "request"))
        with bar(len(by_part) + len(by_preprocess) + len(transports), "costs", "part") as progress:

            def measure(kind: str, key: str, run: Callable[[], Any]) -> Any:
                progress.set_postfix_str(f"{kind}: {key}")
                found = run()
                self.record.keep_cost(kind, key, found)
                return found

            for part, one in by_part.items():
                own = model.get(str(part), {})
                missing = [size for size in sorted(sizes[part]) if str(size) not in own]
                if missing:
                    new = partial(self._model_s, one, missing, own)
                    model[str(part)] = measure("model", str(part), new)
                progress.update()
            for way, one in by_preprocess.items():
                if way not in preprocess:
                    preprocess[way] = measure("preprocess", way, partial(self._preprocess_s, one))
                progress.update()
            for transport in sorted(transports):
                if transport not in request:
                    request[transport] = measure("request", transport, partial(self._request_s, transport))
                progress.update()
        by_size = {part: {int(size): s for size, s in model[str(part)].items()} for part in by_part}
        return Costs(by_size, preprocess, request)

    def _model_s(
        self, settings: ServeSettings, sizes: Sequence[int], known: dict[str, float]
    ) -> dict[str, float]:
        """Seconds of a worker for an image by batch size, while there is a worker for each core."""
        workers = 1
        if self.device == "cpu":
            workers = max(1, self.cores // (settings.threads_per_worker or self.cores))
        seconds: dict[int, list[float]] = {size: [] for size in sizes}

        def measure(inprocess: InProcessBaseline) -> None:
            for number in range(ROUNDS):
                for size in sorted(sizes, reverse=bool(number % 2)):
                    rates, _ = inprocess.run("model", size, SECONDS, workers)
                    seconds[size].append(workers / mean(rates))

        self._run_inprocess(settings, workers, measure)
        return known | {str(size): mean(own) for size, own in seconds.items()}

    def _preprocess_s(self, settings: ServeSettings) -> float:
        """Seconds of a core to decode and preprocess a photo, while all cores do that."""
        rates: list[float] = []

        def measure(inprocess: InProcessBaseline) -> None:
            rates.extend(
                mean(inprocess.run("preprocess", 1, SECONDS, self.cores)[0]) for _ in range(2 * ROUNDS)
            )

        one_thread = settings.model_copy(update={"threads_per_worker": 1, "keep_freed_memory": True})
        self._run_inprocess(one_thread, self.cores, measure)
        return self.cores / mean(rates)

    def _run_inprocess(
        self, settings: ServeSettings, workers: int, measure: Callable[[InProcessBaseline], None]
    ) -> None:
        baseline = BaselineSettings(batch_sizes=(1,), seconds=SECONDS)
        several = settings.model_copy(update={"workers_per_device": workers})
        with inprocess_workers(self.folders, several, self.device, self.photos, baseline) as inprocess:
            inprocess.wait_until_loaded()
            measure(inprocess)

    def _request_s(self, transport: str) -> float:
        """Seconds of a core for a request to a server with a null model, the load generator's included."""
        workers = {"transport": transport, "workers_per_device": self.cores, "threads_per_worker": 1}
        settings = ServeSettings.model_validate(workers)
        server = running_server(self.folders, settings, "cpu", self.load.timeout_s, null_model=True)
        with server as running:
            null = measure_null_server(running, self.generator, self.load)
        if null.cpu_ms is None or null.client_cpu_ms is None:
            raise LoadError("the CPU time of a server with a null model is not known: it answered too little")
        return (null.cpu_ms + null.client_cpu_ms) / 1000
