"""The pipelines of several configurations in-process, as members of the rounds of a comparison.

A served rate and that of its pipeline without a server, measured in the same round, are a pair: their ratio
is the efficiency, whatever the machine's speed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import mean

from servebench.benchmark.inprocess import PROBE_S, PROBES, InProcessBaseline, inprocess_workers
from servebench.benchmark.paused_servers import PausedServer, has_room_for_copies
from servebench.params import BaselineSettings, ServeSettings
from servebench.paths import ModelFolders
from servebench.system.progress import print_wrapped

PIPELINE_KEYS = {
    *("precision", "compiled", "preprocess", "max_megapixels", "keep_freed_memory"),
    *("workers_per_device", "threads_per_worker"),
}
"""Of a configuration, what its pipeline depends on: configurations that agree in them share processes."""


class InProcessRates:
    """Measures the pipelines of configurations, whose processes sleep in between."""

    def __init__(
        self, pipelines: Mapping[str, InProcessBaseline], configurations: Mapping[str, ServeSettings]
    ) -> None:
        self._pipelines = pipelines
        self._configurations = configurations
        self._batch_size: dict[tuple[str, int], int] = {}

    @property
    def names(self) -> set[str]:
        """The configurations that it can measure."""
        return set(self._pipelines)

    def pipeline_rps(self, name: str, users: int) -> float:
        """Images per second, at the batch size that is fastest among those that ``users`` can form.

        Raises:
            ServebenchError: a worker failed.
        """
        if (name, users) not in self._batch_size:
            self._batch_size[name, users] = self._fastest_size(name, users)
        return self._rate(name, self._batch_size[name, users])

    def _fastest_size(self, name: str, users: int) -> int:
        sizes = self._pipelines[name].batch_sizes
        largest = min(self._configurations[name].max_batch_size, users)
        possible = [size for size in sizes if size <= largest] or [min(sizes)]
        if len(possible) == 1:
            return possible[0]
        probes = {size: mean(self._rate(name, size) for _ in range(PROBES)) for size in possible}
        return max(probes, key=lambda size: probes[size])

    def _rate(self, name: str, batch_size: int) -> float:
        pipeline = self._pipelines[name]
        rates, _ = pipeline.run("pipeline", batch_size, PROBE_S, pipeline.busy)
        return mean(rates)


@contextmanager
def inprocess_rates(
    servers: Sequence[PausedServer],
    configurations: Mapping[str, ServeSettings],
    folders: ModelFolders,
    device: str,
    photos: Sequence[Path],
    settings: BaselineSettings,
) -> Iterator[InProcessRates | None]:
    """Load the models of ``servers`` once more, without servers, until the block is left.

    Yields:
        None where they do not fit into memory, which is said.

    Raises:
        ServebenchError: a model cannot be run.
    """
    if not has_room_for_copies(servers, device):
        print_wrapped("no in-process rates in the rounds, for want of memory")
        yield None
        return
    with ExitStack() as stack:
        by_keys: dict[str, InProcessBaseline] = {}
        pipelines = {}
        for server in servers:
            serve = configurations[server.name]
            keys = serve.model_dump_json(include=PIPELINE_KEYS)
            if keys not in by_keys:
                workers = inprocess_workers(folders, serve, device, photos, settings)
                by_keys[keys] = stack.enter_context(workers)
            pipelines[server.name] = by_keys[keys]
        for own in by_keys.values():
            own.wait_until_loaded()
        for own in by_keys.values():
            own.wait_until_ready()
        yield InProcessRates(pipelines, configurations)
