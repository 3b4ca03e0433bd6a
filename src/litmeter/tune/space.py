"""The configurations that ``tune`` names, without those that cannot run here or duplicate another one."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from litmeter.kinds.configuration import Configuration, Host, TuneSettings

DUPLICATE = "the same as another one"
WORKERS_TIMES_THREADS = "workers x threads"
"""Two knobs of which one leaves less to the other."""


@dataclass(frozen=True)
class Space:
    """The configurations to choose from, and the number of those left out by reason."""

    configurations: tuple[Configuration, ...]
    left_out: Mapping[str, int]


def space_of(tune: TuneSettings, serve: Configuration, machine: Host) -> Space:
    """All combinations of the knobs' values that can run, each once; ``serve`` has the other keys."""
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


def changed_knobs(settings: Configuration, other: Configuration) -> list[str]:
    """The knobs in whose values two configurations differ; workers and threads together are one.

    Without batches there is no timeout.
    """
    changed = [knob for knob in settings.knobs if getattr(settings, knob) != getattr(other, knob)]
    workers, threads = settings.lever("workers"), settings.lever("threads")
    batches, window = settings.lever("batch size"), settings.lever("batch window")
    if 1 in (settings.largest_batch, other.largest_batch) and batches in changed:
        changed = [knob for knob in changed if knob != window]
    if {workers, threads}.intersection(changed):
        return [WORKERS_TIMES_THREADS, *(knob for knob in changed if knob not in (workers, threads))]
    return changed
