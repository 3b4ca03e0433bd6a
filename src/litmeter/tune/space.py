"""The configurations that ``tune`` names, and how far they are from each other.

Those that cannot run here, or duplicate another one, are left out.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from litmeter.kinds.configuration import Configuration, Host, TuneSettings

DUPLICATE = "the same as another one"
WORKERS_TIMES_THREADS = "workers x threads"
"""Both knobs together: one leaves fewer cores to the other."""


@dataclass(frozen=True)
class Space:
    """The configurations to choose from; and by reason, how many were left out."""

    configurations: tuple[Configuration, ...]
    left_out: Mapping[str, int]


def space_of(tune: TuneSettings, serve: Configuration, machine: Host) -> Space:
    """Each combination of the knobs' values that can run, once; other keys are those of ``serve``."""
    left_out: Counter[str] = Counter()
    found: dict[Configuration, None] = {}
    values_of = {
        knob: getattr(tune, knob) or serve.default_values(knob, machine, tune.users) for knob in serve.knobs
    }
    for values in itertools.product(*values_of.values()):
        knobs = dict(zip(values_of, values, strict=True))
        try:
            settings = serve.canonical(serve.model_dump() | knobs, tune.users)
        except ValidationError as error:
            left_out[str(error.errors(include_url=False)[0]["msg"]).removeprefix("Value error, ")] += 1
            continue
        if reason := settings.reason_against(machine):
            left_out[reason] += 1
        elif settings in found:
            left_out[DUPLICATE] += 1
        else:
            found[settings] = None
    return Space(tuple(found), dict(left_out))


def knob_values(settings: Configuration) -> dict[str, Any]:
    """The value of each knob; workers and threads together are one knob."""
    values = {}
    for knob in settings.knobs:
        if knob in (settings.lever("workers"), settings.lever("threads")):
            values[WORKERS_TIMES_THREADS] = settings.workers_times_threads
        else:
            values[knob] = getattr(settings, knob)
    return values


def changed_knobs(settings: Configuration, other: Configuration) -> list[str]:
    """The knobs in whose values two configurations differ; without batches a timeout makes no difference."""
    values, others = knob_values(settings), knob_values(other)
    changed = [knob for knob in values if values[knob] != others[knob]]
    if 1 in (settings.largest_batch, other.largest_batch) and settings.lever("batch size") in changed:
        changed = [knob for knob in changed if knob != settings.lever("batch window")]
    return changed


def neighbours(centre: Configuration, configurations: Iterable[Configuration]) -> list[Configuration]:
    """For each other value of each knob, the configurations with it that are nearest to ``centre``.

    Mostly they differ in this knob alone. Where a value excludes the centre's value of another knob, as int8
    excludes a model that is not compiled, they differ in two.
    """
    by_distance: dict[Any, dict[int, list[Configuration]]] = defaultdict(lambda: defaultdict(list))
    for one in configurations:
        changed, values = changed_knobs(one, centre), knob_values(one)
        for knob in changed:
            by_distance[knob, values[knob]][len(changed)].append(one)
    return list(dict.fromkeys(itertools.chain.from_iterable(own[min(own)] for own in by_distance.values())))
