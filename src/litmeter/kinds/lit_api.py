"""A LitAPI of one's own, served by LitServe or by the direct transport."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from litmeter.direct.binding import KWARGS_VARIABLE, LOG_VARIABLE
from litmeter.direct.settings import PIPELINE_KEYS, LitApiSettings
from litmeter.errors import ApiError, UsageError
from litmeter.kinds.configuration import (
    ANSWER_TIMEOUT_S,
    TRY_S,
    Exclusion,
    Given,
    Host,
    Pipeline,
    Preflight,
    Tried,
    TuneSettings,
)
from litmeter.kinds.preflight import DIFFER, check_apis
from litmeter.kinds.server import Server, Start, started_workers
from litmeter.kinds.workers import WorkerConfiguration, WorkerTuneSettings
from litmeter.load.bodies import Bodies
from litmeter.say.progress import print_wrapped
from litmeter.settings import CANDIDATE, WITHOUT_EFFECT, OneOrMore, StrictCount, unknown_key
from litmeter.system.cores import whole_cores
from litmeter.system.temporary import lasting_log

SPEC = re.compile(r"(?:[^:]*/)?[\w.-]+:\w+")
DIRECT = "transport direct"
"""In messages, the check of whether the direct transport can serve a LitAPI."""
BATCHES: dict[str, Any] = {"max_batch_size": 4, "batch_timeout_s": 0.002}
"""What `litmeter init` tries and suggests for batches."""
TRANSPORTS = ("direct", "litserve") if sys.platform == "linux" else ("litserve",)
"""`litmeter init` ships the first that serves the LitAPI."""
MOST_WORKERS = 4
"""The most workers that `litmeter init` suggests."""


class LitApiTuneSettings(WorkerTuneSettings):
    """What a search seeks, and the values of the knobs of a LitAPI's server."""

    num_api_servers: OneOrMore[StrictCount] | None = Field(None, description="absent: that of serve")


class LitApi(LitApiSettings, WorkerConfiguration):
    """A LitAPI; its answers are checked before anything is timed."""

    kind = key = "api"

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # a dict has none

    @classmethod
    def recognised(cls, given: Given) -> dict[str, Any] | None:
        """``module:Class`` or ``FILE.py:Class``, then keys: max_batch_size=8, api_kwargs.size=small."""
        if not SPEC.fullmatch(given.first):
            return None
        place, _, name = given.first.partition(":")
        module, folder = place, Path.cwd()
        if (file := Path(place)).suffix == ".py":  # imported from the folder of its package
            module, folder = file.stem, (folder / file).parent
            while (folder / "__init__.py").exists():
                module, folder = f"{folder.name}.{module}", folder.parent
        return {
            "api": f"{module}:{name}",
            "folder": str(folder),
            "path": given.path_or_default,
            **_values(given),
        }

    @property
    def spec(self) -> str:
        """Module and class."""
        return self.api

    def describe(self, device: str) -> str:
        """The class with its arguments, batches, workers."""
        own = [self.api, *(f"{key} {value}" for key, value in self.api_kwargs.items())]
        http = f"{self.num_api_servers} HTTP processes" if self.num_api_servers > 1 else ""
        return self.described(own, [http, "" if self.check_answers else "answers not compared"])

    def starting(self, how: Start) -> AbstractContextManager[Server]:
        """Start the server; what ``setup`` raises goes to a log that lasts."""
        variables = self.environment() | {LOG_VARIABLE: str(lasting_log(self.api))}
        settings = self.model_dump(exclude_defaults=True)  # a revision's own code may lack keys
        if "api_kwargs" in settings:  # its code from before this variable refuses the text
            variables[KWARGS_VARIABLE] = json.dumps(settings["api_kwargs"], default=str)
            settings["api_kwargs"] = f"in {KWARGS_VARIABLE}"
        start = partial(started_workers, "litmeter.direct", how, self.path, variables, folder=self.place)
        return start(follow=self.api, settings=settings)

    checked: ClassVar[Any] = staticmethod(check_apis)

    no_pipeline: ClassVar[str] = ""
    pipeline_keys: ClassVar[frozenset[str]] = PIPELINE_KEYS

    def pipeline_inputs(self, bodies: Bodies) -> Any:
        """The bodies."""
        return bodies.to_json()

    def lit_server(self, device: str) -> Any:
        """LitServe's server of the LitAPI."""
        from litmeter.direct.lit_api import lit_server, load_class, make_api

        return lit_server(make_api(self, load_class(self.api)), self, device, ANSWER_TIMEOUT_S)

    def pipeline(self, inputs: Any, device: str) -> tuple[str, Callable[[], Pipeline]]:
        """As LitServe does, the LitAPI is pickled to workers that are spawned."""
        from litmeter.direct.pipeline import ApiPipeline, payloads_of

        server = self.lit_server(device)
        payloads = payloads_of(server, *Bodies.from_json(inputs)[:2])
        return "spawn", partial(ApiPipeline, server.lit_api, device, payloads)

    tune_section: ClassVar[type[TuneSettings]] = LitApiTuneSettings
    knobs: ClassVar[tuple[str, ...]] = (*WorkerConfiguration.knobs, "num_api_servers")
    waits: ClassVar[bool] = True

    def default_values(self, knob: str, machine: Host, users: int) -> list[Any]:
        """HTTP processes are as many as here."""
        if knob == "num_api_servers":
            return [self.num_api_servers]
        return super().default_values(knob, machine, users)

    def canonical(self, values: Mapping[str, Any], users: int) -> Any:
        """The direct transport has one HTTP process."""
        alone = {"num_api_servers": 1} if values["transport"] == "direct" else {}
        return super().canonical({**values, **alone}, users)

    @property
    def search_name(self) -> str:
        """The values of all knobs; LitServe's own transport, and a single HTTP process, are not named."""
        http = f" {self.num_api_servers} http" if self.num_api_servers > 1 else ""
        return super().search_name + " direct" * (self.transport == "direct") + http

    @property
    def simplicity(self) -> tuple[float, ...]:
        """After workers, batches and transport: fewer HTTP processes."""
        return (*super().simplicity, self.num_api_servers)

    def tried(self, configurations: Sequence[Any], machine: Host, how: Preflight) -> Host:
        """Exclude batch sizes, or the direct transport, with which the LitAPI fails or answers otherwise."""
        workers = min(2, max(one.workers for one in configurations))
        alone: dict[str, Any] = {"workers_per_device": workers, "threads_per_worker": 1}
        alone |= {"batch_timeout_s": 0.0, "transport": "litserve"}
        by_size = {one.max_batch_size: one.model_copy(update=alone) for one in configurations}
        sizes = sorted(by_size)
        print_wrapped(f"0. answers at max_batch_size {', '.join(map(str, sizes))} are checked")
        to_check = {f"max_batch_size {size}": by_size[size] for size in sizes}
        if any(one.transport == "direct" for one in configurations):
            to_check[DIRECT] = by_size[sizes[0]].model_copy(update={"transport": "direct"})
        return without_faulty(to_check, machine, how)

    def init_try(self, bodies: Bodies, device: str) -> Tried:
        """Try single items and batches; raise ApiError if neither works."""
        common = {knob: type(self).model_fields[knob].default for knob in self.knobs}
        common |= {"threads_per_worker": 1} if device == "cpu" else {}
        quick = Preflight(bodies, device, TRY_S, quick=True)
        for transport in TRANSPORTS:
            alone = self.model_copy(update=common | {"transport": transport})
            both = {self.api: alone, f"{self.api} in batches": alone.model_copy(update=BATCHES)}
            single, batch = check_apis(both, quick).values()
            if f"transport: {transport}" not in single.fault:  # else that transport cannot serve it
                break
        if single.fault and batch.fault:
            raise ApiError(single.fault)
        if single.unavailable and DIFFER in batch.fault:
            again = f"'{self.api} check_answers=false'"
            raise ApiError(f"{batch.fault}; of a model that samples, give {again}")
        if (answer_s := single.answer_s or batch.answer_s) is None:  # it cannot be run in-process
            try:
                tried = super().init_try(bodies, device)
            except UsageError as error:
                raise UsageError(f"{self.api}: {error}") from error
            return replace(tried, configurations=self.worth_comparing(device))
        said = "it takes single items and batches"
        if fault := (single.fault or batch.fault).partition("; its log: ")[0]:
            said = f"it takes {'batches' if single.fault else 'single items'} alone ({fault})"
        takes = {"single": not single.fault, "batches": not batch.fault, "direct": transport == "direct"}
        return Tried(said, answer_s, self.worth_comparing(device, **takes))

    def worth_comparing(
        self, device: str, *, single: bool = True, batches: bool = False, direct: bool = False
    ) -> dict[str, dict[str, Any]]:
        """What `litmeter init` compares, by name, the configuration to ship last.

        The first is plain; up to two more differ from it in one of batches, transport and workers; the last
        has all of these. If only workers can differ, there is nothing between the first and the last.

        Args:
            single, batches: whether the LitAPI takes single items, and batches.
            direct: whether the direct transport serves it.
        """
        defaults = {knob: type(self).model_fields[knob].default for knob in self.knobs}
        base = self.keys_here()
        given = {key: base.pop(key) for key in defaults if key in base}
        cores = max(2, whole_cores())
        workers = min(MOST_WORKERS, cores)
        in_batches = BATCHES | {key: given[key] for key in BATCHES if key in given}
        first: dict[str, Any] = {} if single else in_batches
        changes = {"batched": in_batches} if batches and single else {}
        if direct:
            changes["direct"] = {"transport": "direct", "batch_timeout_s": 0.0}
        changes["workers"] = {"workers_per_device": workers}
        if device == "cpu":
            changes["workers"] |= {"threads_per_worker": cores // workers}
        found = {"single" if single else "batched": first}
        if len(changes) > 1:
            found |= {name: first | changes[name] for name in list(changes)[:2]}
        shipped = defaults | first  # all keys: -S can only set a key that is there
        for keys in (*changes.values(), given):
            shipped |= keys
        found[CANDIDATE] = shipped
        return {name: deepcopy(base) | one for name, one in found.items()}  # or YAML has anchors

    def init_files(self) -> list[Path]:
        """The file of the LitAPI's module."""
        folder = os.path.relpath(self.folder or os.curdir)
        return [Path(folder, *self.api.partition(":")[0].split(".")).with_suffix(".py")]


def without_faulty(to_check: Mapping[str, LitApiSettings], machine: Host, how: Preflight) -> Host:
    """``machine`` without the batch sizes, or the DIRECT transport, with which a LitAPI fails its check."""
    checked = check_apis(to_check, how)
    notes = [note.partition(": ")[2] for one in checked.values() for note in one.notes]
    print_wrapped("\n".join(dict.fromkeys(notes)))
    exclusions = []
    for name, one in checked.items():
        key = "transport" if name == DIRECT else "max_batch_size"
        if one.fault:
            exclusions.append(Exclusion({key: getattr(to_check[name], key)}, one.fault, is_fault=True))
    return replace(machine, exclusions=exclusions)


def _values(given: Given) -> dict[str, Any]:
    """Keys and values of words as key=value; raise UsageError for a key that no LitAPI has."""
    found: dict[str, Any] = {}
    for key, value in given.values("class"):
        section, _, inner = key.partition(".")
        if section not in LitApi.model_fields:
            allowed = [key for key in LitApi.model_fields if key != "api"]
            reason = f"{unknown_key(section, allowed)} (api_kwargs.NAME=value)"
            raise UsageError(f"{given.name}.{section}: {WITHOUT_EFFECT.get(section, reason)}")
        if inner:
            found.setdefault(section, {})[inner] = value
        else:
            found[section] = value
    return found
