"""The costs of the parts, in-process and of servers with a null model, and the rates that they predict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from litmeter.errors import LoadError
from litmeter.load import LoadGenerator
from litmeter.measure.inprocess import InProcessBaseline, inprocess_workers
from litmeter.measure.overheads import measure_null_server
from litmeter.params import BaselineSettings, LoadSettings, ServeSettings
from litmeter.paths import ModelFolders
from litmeter.serve.launcher import running_server
from litmeter.system.progress import bar
from litmeter.tune.record import Record
from litmeter.tune.space import simplicity

SECONDS, ROUNDS = 0.15, 2
"""Of each window, and windows per batch size: the second round has the reverse order of the first."""


@dataclass(frozen=True)
class ModelVariant:
    """What the model's cost depends on."""

    precision: str
    compiled: bool
    threads: int | None
    keep_freed_memory: bool

    def __str__(self) -> str:
        built = "compiled" if self.compiled else "timm's"
        threads = f"{self.threads or 'all'} threads"
        return (
            f"{self.precision}, {built}, {threads}, {'keeps' if self.keep_freed_memory else 'frees'} memory"
        )

    @staticmethod
    def of(settings: ServeSettings) -> ModelVariant:
        """The part of a configuration."""
        return ModelVariant(
            settings.precision, settings.compiled, settings.threads_per_worker, settings.keep_freed_memory
        )


@dataclass(frozen=True)
class Costs:
    """What the parts of a configuration take on this machine.

    Attributes:
        model_s: by part, then by batch size: seconds of a worker for an image, while as many workers as have
            a core each are busy.
        preprocess_s: by ``preprocess``: seconds of a core for an image.
        request_s: by ``transport``: seconds of a core for a request, the load generator's share included.
    """

    model_s: Mapping[ModelVariant, Mapping[int, float]]
    preprocess_s: Mapping[str, float]
    request_s: Mapping[str, float]


def predicted_rps(settings: ServeSettings, costs: Costs, cores: int, users: int) -> float:
    """Requests per second in a closed loop of ``users``.

    It is bounded by the CPU time that all parts take together, and by how fast the workers are done with a
    batch, for which they may wait.
    """
    workers = settings.workers_per_device
    by_size = costs.model_s[ModelVariant.of(settings)]
    size = formed_batch(settings, users)
    model_s = interpolated(by_size, size)
    preprocess_s, request_s = costs.preprocess_s[settings.preprocess], costs.request_s[settings.transport]
    threads = settings.threads_per_worker or cores
    cpu_s = model_s * threads + preprocess_s + request_s
    batch_s = size * (model_s + preprocess_s) + waiting_s(settings, users)
    return min(cores / cpu_s, workers * size / batch_s)


def formed_batch(settings: ServeSettings, users: int) -> float:
    """Mean number of requests in a batch; LitServe's queues give a batch of one without a timeout."""
    if settings.transport == "litserve" and settings.batch_timeout_s == 0:
        return 1.0
    return max(1.0, min(float(settings.max_batch_size), users / settings.workers_per_device))


def waiting_s(settings: ServeSettings, users: int) -> float:
    """How long a batch waits: the whole timeout if the users cannot fill it."""
    filled = settings.max_batch_size * settings.workers_per_device <= users
    return 0.0 if filled else settings.batch_timeout_s


def interpolated(by_size: Mapping[int, float], size: float) -> float:
    """The cost at ``size``, on a line between the nearest sizes that were measured."""
    sizes = sorted(by_size)
    below = max((one for one in sizes if one <= size), default=sizes[0])
    above = min((one for one in sizes if one >= size), default=sizes[-1])
    if below == above:
        return by_size[below]
    share = (size - below) / (above - below)
    return (1 - share) * by_size[below] + share * by_size[above]


def ranking(
    configurations: Sequence[ServeSettings], costs: Costs, cores: int, users: int
) -> list[tuple[ServeSettings, float]]:
    """The configurations with their predicted rates, fastest first; of equals, the simpler first."""
    predicted = [(one, predicted_rps(one, costs, cores, users)) for one in configurations]
    return sorted(predicted, key=lambda pair: (-pair[1], simplicity(pair[0])))


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
        sizes: dict[ModelVariant, set[int]] = {}
        by_part: dict[ModelVariant, ServeSettings] = {}
        by_preprocess: dict[str, ServeSettings] = {}
        transports = set()
        for one in configurations:
            part = ModelVariant.of(one)
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
