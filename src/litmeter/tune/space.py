"""The configurations that ``tune`` names, without those that cannot run here or duplicate another one."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import ValidationError

from litmeter.errors import ModelError
from litmeter.model.card import INTERPOLATIONS, read_card
from litmeter.model.compiled.manifest import packages_to_use
from litmeter.model.device import PRECISIONS, cannot_run_reason, dtype_name, precisions_on
from litmeter.params import KNOBS, Kind, ServeSettings, TuneSettings, knobs_of
from litmeter.paths import MODEL
from litmeter.system.cores import whole_cores

DUPLICATE = "the same as another one"
WORKERS_AND_THREADS = frozenset({"workers_per_device", "threads_per_worker"})
"""Knobs of which one leaves less to the other."""
WORKERS_TIMES_THREADS = "workers x threads"
GPU_WORKERS = 4
"""On a GPU, where ``tune`` does not say how many."""


@dataclass(frozen=True)
class Machine:
    """What decides which configurations can run: the device, the CPU's cores, and reasons against.

    These are by precision, by precision of a compiled package for a single image, by preprocessing, by
    max_batch_size, by transport, and against models that are not compiled.
    """

    device: str
    cores: int
    precisions: Mapping[str, str] = field(default_factory=dict)
    compiled: Mapping[str, str] = field(default_factory=dict)
    preprocess: Mapping[str, str] = field(default_factory=dict)
    batch_sizes: Mapping[int, str] = field(default_factory=dict)
    transports: Mapping[str, str] = field(default_factory=dict)
    in_torch: str = ""


def machine_of(device: str, photos: Sequence[Path]) -> Machine:
    """This machine, as far as it decides what can run."""
    card = read_card(MODEL.exported)
    precisions = {one: "for CPUs only" for one in PRECISIONS if one not in precisions_on(device)}
    compiled = {}
    for precision in precisions_on(device):
        if reason := cannot_run_reason(dtype_name(precision, device), device):
            precisions[precision] = reason
        try:
            if all(package.batch_size > 1 for package in packages_to_use(MODEL, device, precision)):
                compiled[precision] = "no package for a single image is used"
        except ModelError as error:
            compiled[precision] = str(error)
    preprocess = {}
    if card.interpolation not in INTERPOLATIONS:
        preprocess = dict.fromkeys(("torchvision", "scaled"), f"it does not resize by {card.interpolation}")
    elif max(map(_shorter_side, photos)) < 2 * card.resized_side:
        preprocess = {"scaled": "no photo is twice as large as the model needs it"}
    in_torch = "a model of an ONNX file is served compiled" if card.kind == "onnx" else ""
    return Machine(device, whole_cores(), precisions, compiled, preprocess, in_torch=in_torch)


def _shorter_side(photo: Path) -> int:
    with Image.open(photo) as image:
        return min(image.size)


@dataclass(frozen=True)
class Space:
    """The configurations to choose from, and the number of those left out by reason."""

    configurations: tuple[ServeSettings, ...]
    left_out: Mapping[str, int]


def space_of(tune: TuneSettings, serve: ServeSettings, machine: Machine) -> Space:
    """All combinations of the knobs' values that can run, each once; ``serve`` has the other keys."""
    left_out: Counter[str] = Counter()
    found: dict[ServeSettings, None] = {}
    values_of = {
        knob: getattr(tune, knob) or _values(knob, serve.kind, tune, machine) for knob in knobs_of(serve.kind)
    }
    for values in itertools.product(*values_of.values()):
        knobs = dict(zip(values_of, values, strict=True))
        try:
            settings = canonical(serve.model_dump() | knobs, tune.users, machine)
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


def _values(knob: str, kind: Kind, tune: TuneSettings, machine: Machine) -> list[Any]:
    """The values of a knob that ``tune`` does not name: 1, 2, 4 and so on, and the most that may be useful.

    A server whose requests wait for something else, such as a disk, can use more workers than cores.
    """
    if knob == "transport":
        return ["litserve", "direct"] if kind == "api" else ["litserve"]
    workers = 2 * machine.cores if machine.device == "cpu" else GPU_WORKERS
    most = {"workers_per_device": workers, "threads_per_worker": machine.cores, "max_batch_size": tune.users}
    return sorted({*(2**power for power in range(most[knob].bit_length())), most[knob]})


def canonical(values: Mapping[str, Any], users: int, machine: Machine) -> ServeSettings:
    """The one form of all configurations that do the same as these ``values``.

    Raise ValidationError where they exclude each other.
    """
    values = dict(values)
    if values["compiled"]:
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
    if machine.in_torch and not settings.compiled:
        return f"not compiled: {machine.in_torch}"
    if reason := machine.preprocess.get(settings.preprocess):
        return f"{settings.preprocess}: {reason}"
    threads = settings.workers_per_device * (settings.threads_per_worker or machine.cores)
    may_wait = (settings.kind == "api" or machine.device == "cuda") and settings.threads_per_worker == 1
    if threads > machine.cores and not may_wait:
        return f"workers with more threads together than {machine.cores} cores"
    return machine.transports.get(settings.transport) or machine.batch_sizes.get(settings.max_batch_size, "")


def changed_knobs(settings: ServeSettings, other: ServeSettings) -> list[str]:
    """The knobs in whose values two configurations differ; workers and threads together are one.

    Without batches there is no timeout.
    """
    changed = [knob for knob in KNOBS if getattr(settings, knob) != getattr(other, knob)]
    if 1 in (settings.max_batch_size, other.max_batch_size) and "max_batch_size" in changed:
        changed = [knob for knob in changed if knob != "batch_timeout_s"]
    if WORKERS_AND_THREADS.intersection(changed):
        return [WORKERS_TIMES_THREADS, *(knob for knob in changed if knob not in WORKERS_AND_THREADS)]
    return changed


def built(settings: ServeSettings) -> str:
    """How its model runs."""
    return "compiled" if settings.compiled else "torch"


def name_of(settings: ServeSettings) -> str:
    """A short name that says the values of all knobs."""
    model = f"{settings.precision} {built(settings)} {settings.preprocess} {settings.transport} "
    batches = f"b{settings.max_batch_size} {1000 * settings.batch_timeout_s:g}ms"
    ending = " keep" if settings.keep_freed_memory else ""
    if settings.kind == "api":
        model, ending = "", " direct" * (settings.transport == "direct")
    return f"{model}{workers_times_threads(settings)} {batches}{ending}"


def workers_times_threads(settings: ServeSettings) -> str:
    """Both numbers, as 2x1."""
    return f"{settings.workers_per_device}x{settings.threads_per_worker or 'all'}"


def simplicity(settings: ServeSettings) -> tuple[float, ...]:
    """Key by which the cheaper and simpler sorts first."""
    return (
        settings.workers_per_device,
        settings.max_batch_size,
        settings.batch_timeout_s,
        settings.transport != "litserve",
        settings.compiled,
        settings.preprocess != "timm",
        settings.keep_freed_memory,
    )
