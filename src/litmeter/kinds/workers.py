"""Kinds with workers that answer in batches: those of LitServe, and those of litmeter's own server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from pydantic import Field

from litmeter.direct.settings import AUTO, Transport, WorkerSettings
from litmeter.kinds.configuration import Configuration, Host, Lever, TuneSettings
from litmeter.say.tables import pluralise
from litmeter.settings import OneOrMore, Seconds, StrictCount
from litmeter.system.cores import whole_cores

GPU_WORKERS = 4
"""The most workers on a GPU, if ``tune`` names none."""


class BatchTuneSettings(TuneSettings):
    """What a search seeks, and the numbers of workers and the batches to try."""

    workers_per_device: OneOrMore[StrictCount] | None = Field(
        None, description="absent: 1, 2, 4 and so on to users, on a GPU to 4"
    )
    max_batch_size: OneOrMore[StrictCount] | None = Field(
        None, description="absent: 1, 2, 4 and so on to users"
    )
    batch_timeout_s: OneOrMore[Seconds] = (0.0, 0.002, 0.01)


class WorkerTuneSettings(BatchTuneSettings):
    """What a search seeks, and the values of all knobs of litmeter's own server."""

    transport: OneOrMore[Transport] | None = Field(
        None, description="absent: both for a LitAPI, litserve for the classifier"
    )
    threads_per_worker: OneOrMore[StrictCount] | None = Field(
        None, description="absent: 1, 2, 4 and so on to the cores"
    )


class BatchConfiguration(Configuration):
    """A configuration with the keys workers_per_device, max_batch_size and batch_timeout_s."""

    levers: ClassVar[Mapping[Lever, str]] = {
        "batch size": "max_batch_size",
        "batch window": "batch_timeout_s",
        "workers": "workers_per_device",
    }
    tune_section: ClassVar[type[TuneSettings]] = BatchTuneSettings
    knobs: ClassVar[tuple[str, ...]] = ("workers_per_device", "max_batch_size", "batch_timeout_s")
    search_name_parts: ClassVar[str] = "workers x threads, b and max_batch_size, batch_timeout_s in ms"

    def default_values(self, knob: str, machine: Host, users: int) -> list[Any]:
        """1, 2, 4 and so on, and the most that may be useful: more workers than users are never all busy."""
        workers = users if machine.device == "cpu" else min(GPU_WORKERS, users)
        most = {"workers_per_device": workers, "threads_per_worker": machine.cores, "max_batch_size": users}
        return sorted({*(2**power for power in range(most[knob].bit_length())), most[knob]})

    def canonical(self, values: Mapping[str, Any], users: int) -> Any:
        """Batches are no larger than there are users, and without batches there is no timeout."""
        values = {**values, "max_batch_size": min(values["max_batch_size"], users)}
        if values["max_batch_size"] == 1:
            values["batch_timeout_s"] = 0.0
        return type(self).model_validate({**values, "ready_s": self.ready_s})

    @property
    def search_name(self) -> str:
        """Workers x threads, batches and their timeout."""
        return f"{self.workers_times_threads} b{self.largest_batch} {1000 * self.batch_window_s:g}ms"

    @property
    def simplicity(self) -> tuple[float, ...]:
        """Fewer workers, then smaller batches, that wait shorter."""
        return (self.workers, self.largest_batch, self.batch_window_s)


class WorkerConfiguration(WorkerSettings, BatchConfiguration):
    """A configuration of litmeter's own server, whose workers each hold the model."""

    served_by_litmeter: ClassVar[bool] = True
    levers: ClassVar[Mapping[Lever, str]] = {
        **BatchConfiguration.levers,
        "threads": "threads_per_worker",
        "transport": "transport",
    }

    def lever(self, lever: Lever) -> str | None:
        """The key that moves a lever; the transport has none where it is not LitServe's."""
        if lever == "transport" and self.transport != "litserve":
            return None
        return super().lever(lever)

    def resolved(self, machine: Host, ask_native: Callable[[], bool]) -> Configuration:
        """Workers as many as have a core for each of their threads; one that takes all cores, or a GPU."""
        if self.workers_per_device != AUTO:
            return self
        threads = (self.threads_per_worker if machine.device == "cpu" else None) or machine.cores
        return self.model_copy(update={"workers_per_device": max(1, machine.cores // threads)})

    def note(self, device: str) -> str | None:
        """Whether the threads of a batch would take turns."""
        threads, cores = self.threads_per_worker or 1, whole_cores()
        if device != "cpu" or threads <= cores:
            return None
        return f"threads_per_worker is {threads}, more than {pluralise(cores, 'core')}: they take turns"

    def described(self, first: Iterable[str], last: Iterable[str]) -> str:
        """Batches, workers and transport in words, between ``first`` and ``last``, without empty words."""
        workers = pluralise(self.workers, "worker")
        if self.threads_per_worker:
            workers += f" of {pluralise(self.threads_per_worker, 'thread')}"
        parts = [
            *first,
            f"max_batch_size {self.max_batch_size}",
            f"batch_timeout {self.batch_timeout_s:g} s" if self.batch_timeout_s else "",
            workers,
            "direct" if self.transport == "direct" else "",
            *last,
        ]
        return ", ".join(filter(None, parts))

    knobs: ClassVar[tuple[str, ...]] = (
        *("transport", "workers_per_device", "threads_per_worker", "max_batch_size", "batch_timeout_s"),
    )
    waits: ClassVar[bool] = False
    """Whether a worker may wait for something other than a core, so that more workers than cores may help."""

    def default_values(self, knob: str, machine: Host, users: int) -> list[Any]:
        """Transports; and as of all batches."""
        if knob == "transport":
            return ["litserve", "direct"] if self.waits else ["litserve"]
        return super().default_values(knob, machine, users)

    def reason_against(self, machine: Host) -> str:
        """Workers that would only take turns, or what cannot be served here."""
        threads = self.workers * (self.threads_per_worker or machine.cores)
        may_wait = (self.waits or machine.device == "cuda") and self.threads_per_worker == 1
        if threads > machine.cores and not may_wait:
            return f"workers with more threads together than {machine.cores} cores"
        return super().reason_against(machine)

    @property
    def simplicity(self) -> tuple[float, ...]:
        """As of all batches, then LitServe's own transport."""
        return (*super().simplicity, self.transport != "litserve")
