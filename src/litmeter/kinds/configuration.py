"""The protocol of a kind: all that litmeter asks of what it measures.

A kind is a subclass of ``Configuration``: its fields are keys of params.yaml, its methods answer litmeter's
questions. A kind sets ``kind`` and ``key``, and defines ``spec`` and ``starting``. All else has a default,
mostly "not available", and litmeter goes on without. To add a kind, write a file beside this one and list its
class in ``registry.KINDS``; tests/integration/test_made_up_kind.py has a complete kind.
"""

from __future__ import annotations

import os
import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import yaml
from pydantic import BaseModel, Field

from litmeter.errors import ApiError, ServerError, UsageError
from litmeter.kinds.costs import Costs
from litmeter.kinds.server import PREDICT, READY_S, Server, Start
from litmeter.load.bodies import Bodies
from litmeter.load.first_request import LOADING, check_first_request
from litmeter.load.settings import LoadSettings
from litmeter.say.tables import significant
from litmeter.settings import Count, ParamsLoader, Positive, Section, Seed

TRY_S, ANSWER_TIMEOUT_S = 30.0, 300.0
"""How long an answer may take in a try of a server, and in-process."""
Lever = Literal["batch size", "batch window", "workers", "threads", "transport", "preprocessing"]
"""What can be changed against a bottleneck."""


@dataclass(frozen=True)
class Given:
    """A server on a command line.

    Attributes:
        name: for messages.
        text: the whole of what names the server.
        first, words: the first word of ``text``, as a shell splits it, and the other words.
        path: where requests are sent; None where it was not given.
        ready: path that answers once the server is ready; None where it was not given.
        path_or_default: ``path``, or that of the API that the requests are for.
    """

    name: str
    text: str
    first: str
    words: Sequence[str]
    path: str | None
    ready: str | None
    path_or_default: str = PREDICT

    def values(self, what: str, hint: str = "") -> Iterator[tuple[str, Any]]:
        """The words behind a script or class as keys and values; raise UsageError for one that is neither."""
        for word in self.words:
            key, equals, text = word.partition("=")
            if not equals:
                raise UsageError(f"{self.name}: expected key=value behind the {what}, got {word!r}{hint}")
            yield key, yaml.load(text, ParamsLoader)  # noqa: S506 -- a SafeLoader


class RanAs(BaseModel):
    """Settings that a server itself chooses: all in words, and those that are keys of its kind."""

    text: str
    keys: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Preflight:
    """How configurations are checked, before anything is timed.

    Attributes:
        bodies: of requests; some of them are answered.
        timeout_s: how long a method may take for a batch.
        users: if given, the largest batch that each configuration forms at so many users is timed, and the
            largest that it could form, if that is larger. A batch that fails or is answered otherwise has
            no time.
        quick: each is tried in one process, its only worker; whether a LitAPI can be pickled stays open.
    """

    bodies: Bodies
    device: str
    timeout_s: float
    users: int | None = None
    quick: bool = False


@dataclass(frozen=True)
class Checked:
    """What a check of a configuration found, before anything is timed.

    Attributes:
        fault: why the configuration must not be served, in one line with the log's path; empty if it may be.
        unavailable: why its pipeline cannot run in-process; empty if it can.
        notes: lines to print.
        answer_s: seconds that an answer of the largest batch took in-process; None if it was not run.
        batch_ms: milliseconds for each answer in-process, by batch size.
        ran: what the server itself chooses; None where nothing is known of it.
        costs: of an item, as the server's code says; None where it does not.
        operators: shares of an answer's time in-process, see ``CostCeiling``.
        cores: that a worker uses while it answers in-process, a mean; None if it was not run.
    """

    fault: str = ""
    unavailable: str = ""
    notes: tuple[str, ...] = ()
    answer_s: float | None = None
    batch_ms: Mapping[int, float] = field(default_factory=dict)
    ran: RanAs | None = None
    costs: Costs | None = None
    operators: Mapping[str, float] = field(default_factory=dict)
    cores: float | None = None


@dataclass(frozen=True)
class Tried:
    """What a short try of a server found, for `litmeter init`.

    Attributes:
        said: the finding, in words.
        answer_s: seconds that an answer takes.
        configurations: the keys of each configuration worth comparing, by name.
        another: a line of params.yaml that suggests one more.
    """

    said: str
    answer_s: float
    configurations: Mapping[str, Mapping[str, Any]]
    another: str = ""


class Pipeline(Protocol):
    """What a worker does for a request, without a server.

    Attributes:
        threads: number of threads of its libraries.
    """

    threads: int

    def batch(self, size: int) -> Any:
        """The next ``size`` requests, ready for the model."""

    def run(self, work: str, size: int, batch: Any, /) -> float | None:
        """Do one kind of work on the next ``size`` requests; "model" is the model alone, on ``batch``.

        Return the seconds until the first piece of answers that stream; else None.
        """


class TuneSettings(Section):
    """What `litmeter tune` seeks, and what the winner has to keep to; a kind with knobs adds their values."""

    goal: Literal["throughput", "capacity"] = Field(
        "throughput", description="rate of a closed loop of ``users``, or the capacity under ``objective``"
    )
    users: Count = Field(8, description="requests in flight at once while configurations race")
    min_agreement: float = Field(
        0.99, ge=0, le=1, description="share of photos with the label of full precision"
    )
    max_memory_mib: Positive | None = Field(None, description="of the server's processes together")
    max_p95_ms: Positive | None = Field(None, description="latency in the closed loop")
    max_s: Positive = Field(300.0, description="seconds of a search, from when the machine is free")
    seed: Seed = Field(42, description="seed of the order in which configurations take turns")


@dataclass(frozen=True)
class Exclusion:
    """Values of keys with which a configuration cannot be searched.

    Attributes:
        values: by key; all must be there.
        is_fault: whether a server with them answers wrongly, so that a search must not even begin with them.
    """

    values: Mapping[str, Any]
    reason: str
    is_fault: bool = False


@dataclass(frozen=True)
class Host:
    """What servers run on.

    Attributes:
        cores: that they may use.
        exclusions: what cannot run here; the first that applies is the reason that is given.
    """

    device: str
    cores: int
    exclusions: Sequence[Exclusion] = ()

    def excluded(self, settings: Configuration) -> Exclusion | None:
        """What excludes a configuration; None if nothing does."""
        for one in self.exclusions:
            if all(getattr(settings, key) == value for key, value in one.values.items()):
                return one
        return None


class Configuration(Section):
    """A named server of the comparison, by its settings."""

    # ---- required

    kind: ClassVar[str]
    """The kind's name in messages."""
    key: ClassVar[str]
    """The key of params.yaml by which configurations of this kind are known."""

    @property
    @abstractmethod
    def spec(self) -> str:
        """What is served, as a command line names it; empty where the project has only one."""

    @abstractmethod
    def starting(self, how: Start) -> AbstractContextManager[Server]:
        """Start the server, mostly by ``server.started``; enter the block at once, end the server with it.

        Raise ServerError where the port is taken, or a command starts no program.
        """

    # ---- on the command line, in tables

    @classmethod
    def recognised(cls, given: Given) -> dict[str, Any] | None:
        """The keys of the server that a command line names; None if it is not of this kind.

        Raise UsageError where keys of this kind are wrong.
        """
        return None

    def describe(self, device: str) -> str:
        """The settings on ``device`` (cpu or cuda), in words and without defaults."""
        return self.spec

    ready_s: Positive = Field(
        READY_S,
        description="seconds that its start may be silent: no CPU time, no line in its log",
        exclude=True,  # no figure depends on it
    )

    item: ClassVar[str] = "request"
    """What a rate counts."""

    # ---- what a figure depends on

    def identity(self, device: str) -> dict[str, Any]:
        """What figures of this configuration alone depend on, as JSON; a change makes kept results invalid.

        What keys only name, such as compiled packages, is in it by its hash. Raise ModelError where such a
        thing is missing.
        """
        return {"serve": self.model_dump()}

    def search_identity(self, device: str) -> Any:
        """What a search that begins with this configuration depends on besides its keys, as JSON."""

    # ---- processes

    is_started: ClassVar[bool] = True
    """Whether litmeter starts the server, and results depend on its files; else it runs already."""
    served_by_litmeter: ClassVar[bool] = False
    """Whether litmeter's own server answers, be it that of another tree: it can be served without a model, at
    another address, with a certificate, or with fewer endpoints."""
    levers: ClassVar[Mapping[Lever, str]] = {}
    """The key for each lever that the kind has; ``workers`` and the next three members follow from it."""

    def lever(self, lever: Lever) -> str | None:
        """The key that moves a lever; None if no key does."""
        return self.levers.get(lever)

    def _value(self, lever: Lever, default: Any) -> Any:
        return getattr(self, self.levers[lever]) if lever in self.levers else default

    @property
    def workers(self) -> int:
        """Processes that work at once, each on a request or a batch; 0 if litmeter does not start them."""
        return int(self._value("workers", int(self.is_started)))

    @property
    def threads(self) -> int | None:
        """Threads of each worker on a CPU; None: one for each core."""
        threads: int | None = self._value("threads", None)
        return threads

    @property
    def largest_batch(self) -> int:
        """The most requests that are answered together."""
        return int(self._value("batch size", 1))

    @property
    def batch_window_s(self) -> float:
        """How long a batch waits to fill."""
        return float(self._value("batch window", 0.0))

    @property
    def workers_times_threads(self) -> str:
        """Numbers of workers and threads, as 2x1."""
        return f"{self.workers}x{self.threads or 'all'}"

    @property
    def place(self) -> Path | None:
        """The folder that the server runs in, by the key ``folder``; None: the project's."""
        folder = getattr(self, "folder", None)
        return None if folder is None else Path(folder)

    @classmethod
    def in_tree(cls, keys: Mapping[str, Any], tree: Path) -> Mapping[str, Any] | None:
        """The keys of this server in another tree of the project; None if stages there make its model."""
        if cls.stages:
            return None
        if "folder" not in cls.model_fields:
            return keys
        return {**keys, "folder": str(tree / (keys.get("folder") or ""))}

    def environment(self) -> dict[str, str]:
        """Environment variables of the server, or of the workers of its pipeline."""
        return dict(os.environ)

    # ---- params.yaml and stages

    stages: ClassVar[tuple[str, ...]] = ()
    """Stages of this kind, besides those that measure."""

    def resolved(self, machine: Host, ask_native: Callable[[], bool]) -> Configuration:
        """This configuration with a value for each ``auto``; ``ask_native`` says whether half is native."""
        return self

    @classmethod
    def check(cls, params: Any) -> None:
        """Raise ValueError where sections of params.yaml contradict each other."""

    @classmethod
    def check_here(cls, params: Any, device: str) -> None:
        """Raise ParamsError for what params.yaml names and this machine does not have."""

    @classmethod
    def facts(cls, params: Any) -> dict[str, Any]:
        """Further facts for metrics/machine.json; write the files that the kind's stages depend on."""
        return {}

    @classmethod
    def remarks(cls, params: Any, device: str, machine: Mapping[str, Any], *, changed: bool) -> Iterator[str]:
        """Sentences about params.yaml on this machine, and whether metrics/machine.json ``changed``."""
        yield from ()

    @classmethod
    def model_digest(cls) -> str | None:
        """Hash of the model that the kind's stages make; None before they have run."""
        return None

    @classmethod
    def model_card(cls) -> dict[str, Any] | None:
        """A description of that model; None for a kind without one. Raise ModelError where it is missing."""
        return None

    # ---- request bodies, and whether answers are right

    brings_bodies: ClassVar[bool] = False
    """Whether the kind has request bodies and knows right answers. Otherwise a first request is sent, and
    must be answered 200, before anything is timed."""

    @classmethod
    def own_bodies(cls, load: LoadSettings) -> Bodies | None:
        """The kind's request bodies, for a params.yaml that names none."""
        return None

    @classmethod
    def checked(cls, own: Mapping[str, Any], how: Preflight) -> dict[str, Checked]:
        """Check configurations of this kind, by name."""
        return dict.fromkeys(own, Checked(unavailable=cls.no_pipeline))

    def tested(self, load: LoadSettings) -> list[int]:
        """Numbers of the bodies whose right answers are known."""
        return []

    def accuracy(self, answers: Mapping[tuple[int, bytes], int], device: str) -> dict[str, Any]:
        """Metrics of the answers to these bodies, which are counted by body number and content."""
        return {}

    # ---- the pipeline in-process: a request's work without a server

    no_pipeline: ClassVar[str] = "it is not run in-process"
    """Why this kind has no pipeline; empty if it has one."""
    pipeline_keys: ClassVar[frozenset[str]] = frozenset()
    """Keys that the pipeline depends on; configurations that agree in them share its processes."""

    @property
    def in_process(self) -> Configuration:
        """The configuration whose pipeline stands for this one's."""
        return self

    def pipeline_inputs(self, bodies: Bodies) -> Any:
        """What the pipeline works on, as JSON."""

    def pipeline(self, inputs: Any, device: str) -> tuple[str, Callable[[], Pipeline]]:
        """How worker processes are started ("fork" or "spawn"), and what makes each one's pipeline."""
        raise ApiError(self.no_pipeline)

    # ---- what the report says

    @property
    def recodes(self) -> bool | None:
        """Whether images reach the workers as base64 instead of as files; None if that is not known."""
        return None

    @property
    def ceiling(self) -> str | None:
        """The name of this configuration's bounds in metrics/ceilings.json; None without bounds."""
        return None

    def native(self, half_is_native: bool) -> Configuration:
        """This configuration in a number format that the device has instructions for."""
        return self

    def as_run(self, packages: Sequence[Any]) -> Configuration:
        """The settings as they take effect, by the rows of what was compiled."""
        return self

    def as_ran(self, keys: Mapping[str, Any]) -> Configuration:
        """With the keys that the server itself chose, see ``Checked.ran``."""
        return self

    def faster_models(
        self, packages: Sequence[Any], changes: Sequence[Any]
    ) -> Iterator[tuple[str, float, str]]:
        """Keys that make the model faster, how many times, and a text; by the rows of what was timed."""
        yield from ()

    def higher_ceilings(
        self, ceilings: Any, half_is_native: bool, device: str
    ) -> Iterator[tuple[str, float, str]]:
        """Keys that raise the roofline, how many times, and a text."""
        yield from ()

    # ---- knobs of `litmeter tune`

    tune_section: ClassVar[type[TuneSettings]] = TuneSettings

    knobs: ClassVar[tuple[str, ...]] = ()
    """The keys that are searched, in the order of a search's columns."""

    def with_knobs(self) -> Configuration:
        """This configuration with a value for each knob; raise ServerError where the values are not known."""
        return self

    def default_values(self, knob: str, machine: Host, users: int) -> list[Any]:
        """The values of a knob that ``tune`` does not name."""
        raise NotImplementedError

    def canonical(self, values: Mapping[str, Any], users: int) -> Any:
        """The one form of all configurations that do the same as these values.

        Raise ValidationError where they exclude each other.
        """
        raise NotImplementedError

    def reason_against(self, machine: Host) -> str:
        """Why it is left out of a search; empty where it can run."""
        excluded = machine.excluded(self)
        return excluded.reason if excluded else ""

    def tried(self, configurations: Sequence[Any], machine: Host, how: Preflight) -> Host:
        """``machine`` with what excludes some of ``configurations``, all of which differ from this one."""
        return machine

    def agreement(self, device: str) -> Callable[[Any], float] | None:
        """The share of answers that stay the same, by configuration; None where that is not known."""
        return None

    @property
    def search_name(self) -> str:
        """A short name that says the values of all knobs."""
        return self.spec

    @property
    def simplicity(self) -> tuple[float, ...]:
        """The key by which cheaper and simpler settings sort first."""
        return ()

    search_name_parts: ClassVar[str] = ""
    """What the parts of ``search_name`` are."""

    # ---- `litmeter init` and `litmeter serve`

    def init_try(self, bodies: Bodies, device: str) -> Tried:
        """Try the server for some seconds to see what is worth comparing; raise LitmeterError if it fails."""
        try:
            with self.starting(Start(device, TRY_S)) as server:

                def ask(others: Collection[int] = ()) -> int:
                    return check_first_request(server.target, *bodies, TRY_S, others)

                server.ready(self.ready_s, partial(ask, LOADING))
                ask()  # the first answer may take longer
                began = time.perf_counter()
                ask()
                answer_s = time.perf_counter() - began
        except ServerError as error:
            raise UsageError(str(error)) from error
        said = f"a request is answered in {significant(1000 * answer_s)} ms"
        return Tried(said, answer_s, {"server": self.keys_here()})

    def keys_here(self) -> dict[str, Any]:
        """The keys without defaults, for a params.yaml in the current folder."""
        keys = self.model_dump(mode="json", exclude_defaults=True)
        keys |= {"ready_s": self.ready_s} if self.ready_s != READY_S else {}
        if self.place is not None and (folder := os.path.relpath(keys.pop("folder"))) != os.curdir:
            keys["folder"] = folder
        return keys

    def init_files(self) -> list[Path]:
        """Files of the server's code, which results depend on even where nobody saw them opened."""
        return []

    page: ClassVar[bool] = False
    """Whether the server has a page to try it."""

    @property
    def drain_limit_s(self) -> float:
        """How long the server may take to answer what it has accepted, once it is told to stop."""
        return float(getattr(self, "drain_s", 10.0))

    def note(self, device: str) -> str | None:
        """A sentence to print before the server is started; raise ModelError if it cannot be served."""
        return None

    def check_there(self) -> None:
        """Raise LitmeterError where the model is missing, with the command that makes it."""

    def foreground_notes(self, device: str) -> Iterator[str]:
        """Sentences to print before `litmeter serve`; raise LitmeterError if the server cannot be served."""
        yield from filter(None, [self.note(device)])
