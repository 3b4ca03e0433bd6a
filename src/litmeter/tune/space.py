"""The configurations that ``tune`` names, without those that cannot run here or duplicate another one."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from litmeter.params import KNOBS, ServeSettings, TuneSettings

DUPLICATE = "the same as another one"


@dataclass(frozen=True)
class Machine:
    """What decides which configurations can run.

    Attributes:
        device: ``cpu`` or ``cuda``.
        cores: of the CPU.
        precisions: why models cannot run in a precision, by its name.
        compiled: why there is no compiled package for a single image, by precision.
        preprocess: why a way to preprocess cannot be used or changes nothing, by its name.
    """

    device: str
    cores: int
    precisions: Mapping[str, str] = field(default_factory=dict)
    compiled: Mapping[str, str] = field(default_factory=dict)
    preprocess: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Space:
    """The configurations to choose from.

    Attributes:
        left_out: number of configurations by the reason why they are left out.
    """

    configurations: tuple[ServeSettings, ...]
    left_out: Mapping[str, int]


def space_of(tune: TuneSettings, serve: ServeSettings, machine: Machine) -> Space:
    """All combinations of the knobs' values that can run, each once.

    Args:
        serve: has the keys that are no knobs.
    """
    left_out: Counter[str] = Counter()
    found: dict[ServeSettings, None] = {}
    for values in combinations(tune):
        try:
            settings = canonical({**serve.model_dump(), **values}, tune.users, machine)
        except ValidationError as error:
            left_out[str(error.errors(include_url=False)[0]["msg"]).removeprefix("Value error, ")] += 1
            continue
        if reason := reason_against(settings, machine):
            left_out[reason] += 1
        elif settings in found:
            left_out[DUPLICATE] += 1
        else:
            found[settings] = None
    return Space(tuple(found), dict(left_out))


def combinations(tune: TuneSettings) -> Iterator[dict[str, Any]]:
    """Every combination of the knobs' values."""
    for values in itertools.product(*(getattr(tune, knob) for knob in KNOBS)):
        yield dict(zip(KNOBS, values, strict=True))


def canonical(values: Mapping[str, Any], users: int, machine: Machine) -> ServeSettings:
    """The configuration of these ``values``, in the one form that all configurations have that do the same.

    Raises:
        ValidationError: the values exclude each other.
    """
    values = dict(values)
    if machine.device == "cuda":
        values["threads_per_worker"] = None
    elif values["compiled"]:
        values["threads_per_worker"] = 1
    values["max_batch_size"] = min(values["max_batch_size"], users)
    if values["max_batch_size"] == 1:
        values["batch_timeout_s"] = 0.0
    return ServeSettings.model_validate(values)


def reason_against(settings: ServeSettings, machine: Machine) -> str:
    """Why a configuration is left out; empty where it can run."""
    if reason := machine.precisions.get(settings.precision):
        return f"{settings.precision}: {reason}"
    if settings.compiled and (reason := machine.compiled.get(settings.precision)):
        return f"{settings.precision}, compiled: {reason}"
    if reason := machine.preprocess.get(settings.preprocess):
        return f"{settings.preprocess}: {reason}"
    threads = settings.workers_per_device * (settings.threads_per_worker or machine.cores)
    if machine.device == "cpu" and threads > machine.cores:
        return f"workers with more threads together than {machine.cores} cores"
    return ""
