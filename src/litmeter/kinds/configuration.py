"""What the instrument asks of whatever it measures: the protocol of a kind.

A kind is a class: its fields are the keys that a configuration of it has in params.yaml, its methods answer
what is asked. What is below "required" has no answer here. All else has one, most of them that it is not
available, and whoever asks goes on without. So a kind of one's own is one file beside this one, and a place
in ``registry.KINDS``.
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

from pydantic import Field

from litmeter.errors import ServerError, UsageError
from litmeter.kinds.server import Server, Start
from litmeter.load.bodies import Bodies
from litmeter.load.first_request import LOADING, check_first_request
from litmeter.load.settings import LoadSettings
from litmeter.say.tables import significant
from litmeter.settings import Count, Positive, Section, Seed

TRY_S, ANSWER_TIMEOUT_S = 30.0, 300.0
"""How long an answer may take in a try, and in-process."""
Lever = Literal["batch size", "batch window", "workers", "threads", "transport"]
"""What may be moved where a cause of a loss is known."""


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
class Checked:
    """What a check before all timing has found.

    Attributes:
        fault: why it must not be served, one line with the log's path; empty where it may.
        unavailable: why it cannot be run in-process; empty where it can.
        notes: lines to say.
        answer_s: how long an answer took in-process, in the largest batch; None where it was not run.
        batch_ms: how long each answer takes in-process, by the size of its batch.
    """

    fault: str = ""
    unavailable: str = ""
    notes: tuple[str, ...] = ()
    answer_s: float | None = None
    batch_ms: Mapping[int, float] = field(default_factory=dict)


class Pipeline(Protocol):
    """What a worker does for requests, without a server.

    Attributes:
        threads: of its libraries.
    """

    threads: int

    def batch(self, size: int) -> Any:
        """The next ``size`` requests, ready for the model."""

    def run(self, kind: str, size: int, batch: Any) -> None:
        """Do work of a kind on the next ``size`` requests, the model alone on ``batch``."""


@dataclass(frozen=True)
class Machine:
    """What decides which configurations can run: the device, the CPU's cores, and reasons against values.

    Attributes:
        reasons: by key and value, why a configuration with it is left out.
        compiled: likewise by precision, of compiled models.
        faults: those of ``reasons`` with which a server answers wrongly: the section ``serve`` is not
            searched from there.
    """

    device: str
    cores: int
    reasons: Mapping[str, Mapping[Any, str]] = field(default_factory=dict)
    compiled: Mapping[str, str] = field(default_factory=dict)
    faults: Collection[str] = ()


@dataclass(frozen=True)
class Given:
    """A server on a command line.

    Attributes:
        name: in messages.
        text, first, words: all that says what it is; its first word, as a shell splits it, and the others.
        path: where requests are sent.
        ready: what answers once it is ready, None where that is not said.
    """

    name: str
    text: str
    first: str
    words: Sequence[str]
    path: str
    ready: str | None


@dataclass(frozen=True)
class Tried:
    """What a short try of a server has shown, for `litmeter init`.

    Attributes:
        said: what was found.
        answer_s: seconds that an answer takes.
        configurations: the keys of each that is worth comparing, by name; the last is the one to ship.
        another: a line of params.yaml for one that it may be compared with.
    """

    said: str
    answer_s: float
    configurations: Mapping[str, Mapping[str, Any]]
    another: str = ""


def answer_time(server: Configuration, bodies: Bodies, device: str) -> float:
    """Start a server; the seconds that an answer takes. Raise UsageError where it fails."""
    try:
        with server.starting(Start(device, TRY_S)) as starting:
            ask = partial(check_first_request, starting.target, *bodies, {}, TRY_S)
            starting.ready(ask=partial(ask, LOADING))
            for _ in range(2):  # the first may take longer
                began = time.perf_counter()
                ask()
                answer_s = time.perf_counter() - began
    except ServerError as error:
        raise UsageError(str(error)) from error
    return answer_s


class Configuration(Section):
    """A named server of the comparison, by its settings."""

    # ---- required

    kind: ClassVar[str]
    """What it is called in messages."""
    key: ClassVar[str]
    """The key that only its configurations have."""

    @classmethod
    def recognised(cls, given: Given) -> dict[str, Any] | None:
        """The keys of the server that a command line names; None where it names none of this kind.

        Raise UsageError where keys of this kind are wrong.
        """
        return None

    @property
    @abstractmethod
    def spec(self) -> str:
        """What is served, as a command line names it; empty of what has one only."""

    @abstractmethod
    def describe(self, device: str) -> str:
        """The settings on ``device`` (cpu or cuda) in words; LitServe's defaults are left out."""

    @abstractmethod
    def starting(self, how: Start) -> AbstractContextManager[Server]:
        """Start its server: the block is entered at once, and at its end the server ends.

        Raise ServerError where the port is taken, or a command starts no program.
        """

    # ---- optional: what its figures are of

    item: ClassVar[str] = "request"
    """What its rate counts."""

    def identity(self, device: str) -> dict[str, Any]:
        """What its figures depend on, but for what all configurations share, as JSON.

        By it kept rows and stopped logs are known. It is enough where the keys say all; what they only name,
        such as compiled packages, belongs to it by its hash. Raise ModelError where something is missing.
        """
        return {"serve": self.model_dump()}

    def search_identity(self, device: str) -> Any:
        """All on which a search depends that begins with it, besides its settings, as JSON."""

    # ---- its processes, by the keys that it has

    levers: ClassVar[Mapping[Lever, str]] = {}
    """The keys that move causes of losses."""

    def lever(self, lever: Lever) -> str | None:
        """The key that moves it; None where none does."""
        return self.levers.get(lever)

    def _at(self, lever: Lever, without: Any) -> Any:
        return getattr(self, self.levers[lever]) if lever in self.levers else without

    @property
    def workers(self) -> int:
        """Processes that work at once, each on a request or a batch."""
        return int(self._at("workers", 1))

    @property
    def threads(self) -> int | None:
        """Threads of each on a CPU; None: one for each core."""
        threads: int | None = self._at("threads", None)
        return threads

    @property
    def workers_times_threads(self) -> str:
        """Both numbers, as 2x1."""
        return f"{self.workers}x{self.threads or 'all'}"

    @property
    def largest_batch(self) -> int:
        """Requests that it answers together, at most."""
        return int(self._at("batch size", 1))

    @property
    def batch_window_s(self) -> float:
        """How long a batch waits to fill."""
        return float(self._at("batch window", 0.0))

    @property
    def place(self) -> Path | None:
        """The folder that it runs in, by its key ``folder``; None: the project's."""
        folder = getattr(self, "folder", None)
        return None if folder is None else Path(folder)

    @classmethod
    def in_tree(cls, keys: Mapping[str, Any], tree: Path) -> Mapping[str, Any] | None:
        """The keys of the same in another tree of the project; None: the code of that tree serves it."""
        if "folder" not in cls.model_fields:
            return keys
        return {**keys, "folder": str(tree / (keys.get("folder") or ""))}

    runs_litmeter: ClassVar[bool] = False
    """Whether litmeter's own code answers the requests, be it that of another tree."""

    def environment(self) -> dict[str, str]:
        """Environment variables of what works for it."""
        return dict(os.environ)

    # ---- optional: what is said of it

    def note(self, device: str) -> str | None:
        """What to say before it is served; raise ModelError where it cannot be, before workers say it."""
        return None

    asked_first: ClassVar[bool] = True
    """Whether a first request is sent before it is timed, as its answer is not known."""

    @property
    def recodes(self) -> bool | None:
        """Whether images reach its workers as base64, and not as files; None: what it gets is not known."""
        return None

    # ---- optional: params.yaml and stages

    stages: ClassVar[tuple[str, ...]] = ()
    """Stages that there are for it, besides those that measure."""

    def resolved(self, ask_native: Callable[[], bool]) -> Configuration:
        """The same with what ``auto`` stands for; ``ask_native`` says whether half precision is."""
        return self

    @classmethod
    def check(cls, params: Any) -> None:
        """Raise ValueError where sections of params.yaml do not go with each other."""

    @classmethod
    def check_here(cls, params: Any, device: str) -> None:
        """Raise ParamsError for what params.yaml names and is not on this machine."""

    @classmethod
    def facts(cls, params: Any) -> dict[str, Any]:
        """What its figures depend on besides, for metrics/machine.json; write what its stages depend on."""
        return {}

    @classmethod
    def remarks(cls, params: Any, device: str, machine: Mapping[str, Any], *, changed: bool) -> Iterator[str]:
        """Sentences about params.yaml on this machine, which has ``changed`` or not."""
        yield from ()

    @classmethod
    def model_digest(cls) -> str | None:
        """Hash of a model that its stages make, and None where none is there; what has none, raises."""
        raise NotImplementedError

    @classmethod
    def model_card(cls) -> dict[str, Any] | None:
        """What describes that model, None where there is none; raise ModelError where it is missing."""
        return None

    # ---- optional: what is sent, and whether answers are right

    has_bodies: ClassVar[bool] = False
    """Whether it has request bodies of its own."""

    @classmethod
    def own_bodies(cls, load: LoadSettings) -> Bodies | None:
        """Request bodies where params.yaml names none."""
        return None

    @classmethod
    def checked(
        cls, own: Mapping[str, Any], bodies: Bodies, device: str, timeout_s: float, users: int | None
    ) -> dict[str, Checked]:
        """What a check of several of this kind, by name, finds before anything is timed.

        Args:
            timeout_s: how long a batch may take.
            users: how long larger batches take is measured, too, up to one of so many.
        """
        return dict.fromkeys(own, Checked(unavailable=cls.no_pipeline))

    def tested(self, load: LoadSettings) -> list[int]:
        """Numbers of those bodies whose right answers are known."""
        return []

    def accuracy(self, answers: Mapping[tuple[int, bytes], int], device: str) -> dict[str, Any]:
        """What answers to these say of it, by number and content how many there were, for its metrics."""
        return {}

    # ---- optional: the same work without a server

    no_pipeline: ClassVar[str] = "it is not run in-process"
    """Why, where it has none."""
    pipeline_keys: ClassVar[frozenset[str]] = frozenset()
    """Keys on which its pipeline depends; those that agree in all of them share processes."""
    preprocess_key: ClassVar[str | None] = None
    """The key that says how a request becomes the model's input."""

    def pipeline_inputs(self, bodies: Bodies) -> Any:
        """What ``pipeline`` works on, as JSON."""

    def pipeline(self, inputs: Any, device: str) -> tuple[str, Callable[[], Pipeline]]:
        """How worker processes are started ("fork" or "spawn"), and what each runs."""
        raise NotImplementedError

    has_null: ClassVar[bool] = False
    """Whether there is a server of it that does no work: a request costs what the transport costs."""

    # ---- optional: bounds above the model, and what moves it

    @property
    def ceiling(self) -> str | None:
        """The name under which metrics/ceilings.json has its bounds; None where it has none."""
        return None

    def native(self, half_is_native: bool) -> Configuration:
        """The same in a number format that the device has instructions for."""
        return self

    def as_run(self, packages: Sequence[Any]) -> Configuration:
        """The settings as they run, by the rows of what was compiled."""
        return self

    def faster_models(
        self, packages: Sequence[Any], changes: Sequence[Any]
    ) -> Iterator[tuple[str, float, str]]:
        """Keys that make the model faster, how many times, and a text, by rows of what was timed."""
        yield from ()

    def higher_ceilings(
        self, ceilings: Mapping[str, Any], half_is_native: bool, device: str
    ) -> Iterator[tuple[str, float, str]]:
        """The same by bounds above the model."""
        yield from ()

    # ---- optional: knobs of `litmeter tune`

    tune_section: ClassVar[type[TuneSettings]] = TuneSettings

    knobs: ClassVar[tuple[str, ...]] = ()
    """The keys that are searched, in the order of a search's columns."""

    def default_values(self, knob: str, machine: Machine, users: int) -> list[Any]:
        """The values of a knob that ``tune`` does not name."""
        raise NotImplementedError

    def canonical(self, values: Mapping[str, Any], users: int) -> Any:
        """The one form of all configurations that do the same as these values.

        Raise ValidationError where they exclude each other.
        """
        raise NotImplementedError

    def reason_against(self, machine: Machine) -> str:
        """Why it is left out of a search; empty where it can run."""
        return ""

    def tried(
        self, configurations: Sequence[Any], machine: Machine, bodies: Bodies, timeout_s: float
    ) -> Machine:
        """``machine`` with the reasons against values of ``configurations``, which differ from this one."""
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

    # ---- optional: a project of its own, and serving by itself

    def init_try(self, bodies: Bodies, device: str) -> Tried:
        """Try it for some seconds, and say what is worth comparing; raise LitmeterError where it fails."""
        answer_s = answer_time(self, bodies, device)
        said = f"a request is answered in {significant(1000 * answer_s)} ms"
        return Tried(said, answer_s, {"server": self.keys_here()})

    def keys_here(self) -> dict[str, Any]:
        """Its keys but for defaults, in a params.yaml of the current folder."""
        keys = self.model_dump(mode="json", exclude_defaults=True)
        if self.place is not None and (folder := os.path.relpath(keys.pop("folder"))) != os.curdir:
            keys["folder"] = folder
        return keys

    def init_files(self) -> list[Path]:
        """Files that it runs, also where they were not seen to be opened."""
        return []

    is_started: ClassVar[bool] = True
    """Whether it is, and has files on which its results depend; else it runs already."""
    takes_binding: ClassVar[bool] = False
    """Whether it can be served at another address, with a certificate, or with fewer endpoints."""

    @property
    def drain_limit_s(self) -> float:
        """How long it may take to finish what it has accepted, once it is told to stop."""
        return float(getattr(self, "drain_s", 10.0))

    def check_there(self) -> None:
        """Raise LitmeterError where what it serves is not there, with the command that makes it."""

    def foreground_notes(self, device: str) -> Iterator[str]:
        """Sentences to say before it is served in the foreground; raise LitmeterError where it cannot be."""
        yield from ()

    page: ClassVar[bool] = False
    """Whether its server has a page to try it."""
    starts_by: ClassVar[str] = "starting the server ..."
    """Said while it is not ready."""
