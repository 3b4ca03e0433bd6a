"""The pipelines of several configurations in-process, as members of the rounds of a comparison.

A served rate and that of its pipeline (decode, preprocess and model) without a server, measured in the same
round, are a pair: their ratio is the efficiency, whatever the machine's speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import mean
from typing import TypeVar

from litmeter.benchmark.inprocess import PROBE_S, InProcessBaseline, inprocess_workers
from litmeter.benchmark.paused_servers import PausedServer, has_room_for_copies
from litmeter.errors import LitmeterError
from litmeter.params import BaselineSettings, ServeSettings
from litmeter.paths import ModelFolders
from litmeter.system.progress import print_wrapped

Result = TypeVar("Result")

SIZE_PROBES = 2
"""Of each batch size, before the fastest is chosen."""
PIPELINE_KEYS = {
    *("precision", "compiled", "preprocess", "max_megapixels", "keep_freed_memory"),
    *("workers_per_device", "threads_per_worker"),
}
"""Keys of a configuration on which its pipeline depends. Configurations that agree in all of them share
processes."""


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


@contextmanager
def running_pipelines(
    servers: Sequence[PausedServer],
    all_servers: Sequence[PausedServer],
    users: Sequence[int],
    *,
    configurations: Mapping[str, ServeSettings],
    folders: ModelFolders,
    device: str,
    photos: Sequence[Path],
    settings: BaselineSettings,
) -> Iterator[Pipelines]:
    """Run the pipelines of ``servers`` until the block is left; none where memory has no room for them.

    Args:
        all_servers: those and all others that run.
        users: numbers of them, at which rates are asked for.
        configurations: of all servers.
        photos: image files, which the pipelines take from memory.
    """
    server_of: dict[str, PausedServer] = {}
    names_of: dict[str, list[str]] = {}
    for server in servers:
        keys = configurations[server.name].model_dump_json(include=PIPELINE_KEYS)
        server_of.setdefault(keys, server)
        names_of.setdefault(keys, []).append(server.name)
    copied = list(server_of.values())
    workers, all_workers = (
        sum(configurations[server.name].workers_per_device for server in some)
        for some in (copied, all_servers)
    )
    photo_bytes = len(copied) * sum(photo.stat().st_size for photo in photos)
    if not has_room_for_copies(copied, photo_bytes, workers / all_workers, device):
        print_wrapped("no in-process rates in the rounds, for want of memory")
        yield Pipelines({}, configurations)
        return
    with ExitStack() as stack:
        by_name: dict[str, Pipeline] = {}
        for names in names_of.values():
            serve = configurations[names[0]]
            try:
                starting = inprocess_workers(folders, serve, device, photos, settings)
                processes = stack.enter_context(starting)
            except (LitmeterError, OSError) as error:
                say_without(names, error)
            else:
                by_name |= dict.fromkeys(names, Pipeline(processes))
        pipelines = Pipelines(by_name, configurations)
        pipelines.prepare(users)
        yield pipelines
