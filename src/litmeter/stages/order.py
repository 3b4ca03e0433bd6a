"""In which order the stages run, and how long they take, by how long each took when it last ran."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from litmeter.errors import UsageError
from litmeter.params import Params, load_params
from litmeter.paths import DVC_FILE, MACHINE, SECONDS
from litmeter.say.progress import duration
from litmeter.settings import CANDIDATE
from litmeter.system.files import read_json, write_json

Stage = tuple[str, ...]
"""What stands behind ``python3 src/stage.py`` or ``litmeter stage``: a module here, and its argument."""
COMPARISON_ONLY = "LITMETER_COMPARISON_ONLY"
"""Environment variable of a run that ends with the stage ``comparison``."""
COMPARISON: Stage = ("comparison",)
UNRECORDED: tuple[Stage, ...] = (("machine",), ("packages",), COMPARISON, ("report",))
"""They take a few seconds; those of the comparison are in params.yaml."""
ELSEWHERE = " on the machine and with the model of the committed results"


def planned(params: Params) -> list[Stage]:
    """The stages in the order in which `dvc repro` (or, in such a run, `dvc repro comparison`) runs them."""
    if not DVC_FILE.exists():
        raise UsageError(f"{Path.cwd()} has no {DVC_FILE}, whose stages are run")
    with DVC_FILE.open("rb") as file:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C it takes 2 ms instead of 50
        listed: dict[str, Any] = yaml.load(file, loader)["stages"]  # noqa: S506
    entries = {name: entry.get("do", entry) for name, entry in listed.items()}
    wanted = _needed({"comparison"}, entries) if COMPARISON_ONLY in os.environ else set(entries)
    return [
        tuple(entry["cmd"].replace("${key}", key).split()[2:])
        for name, entry in entries.items()
        if name in wanted
        for key in (params.experiments if "foreach" in listed[name] else [""])
    ]


def _needed(names: set[str], entries: dict[str, Any]) -> set[str]:
    """The stages ``names`` of dvc.yaml, and all whose outputs they read, directly or not."""
    writers = {
        path: name
        for name, entry in entries.items()
        for out in entry.get("outs", [])
        for path in ([out] if isinstance(out, str) else out)  # an object's key is the path
    }
    found = names | {
        writers[path] for name in names for path in entries[name].get("deps", []) if path in writers
    }
    return found if found == names else _needed(found, entries)


def seconds_file(stage: Stage) -> Path:
    """Where it stands how long ``stage`` took."""
    return SECONDS / f"{'/'.join(stage)}.json"


def record_seconds(stage: Stage, seconds: float) -> None:
    """Write how long ``stage`` took, if it is one of those that `dvc repro` runs; params.yaml is right."""
    params = load_params()
    if stage in planned(params) and stage not in UNRECORDED:
        write_json(seconds_file(stage), {"seconds": round(seconds, 1), **circumstances(params)})


def circumstances(params: Params) -> dict[str, Any]:
    """What the seconds of a stage hold for."""
    model = params.model.architecture or None
    return {"machine": read_json(MACHINE)["id"] if MACHINE.exists() else None, "model": model}


def expected(stages: Sequence[Stage], params: Params, what: str = "") -> str | None:
    """How long ``stages`` take together, as "about 9 min" and ``what``; None where that is not recorded."""
    total_s = params.comparison.seconds if COMPARISON in stages else 0.0
    recorded = [stage for stage in stages if stage not in UNRECORDED]
    known = []
    for stage in recorded:
        with suppress(OSError, ValueError, KeyError):
            took = read_json(seconds_file(stage))
            total_s += took["seconds"]
            known.append(took)
    if not total_s or (recorded and not known):
        return None
    about = "about" if len(known) == len(recorded) else "at least"
    here = all(circumstances(params).items() <= took.items() for took in known)
    return f"{about} {duration(total_s)}{what}{'' if here else ELSEWHERE}"


def announcement(stage: Stage, params: Params) -> tuple[str, str] | None:
    """Where a run stands as ``stage`` begins, short and long; None for one that `dvc repro` does not run."""
    stages = planned(params)
    if stage not in stages:
        return None
    number = stages.index(stage) + 1
    name = stage[-1] if stage[-1] == CANDIDATE else " ".join(stage)
    text = f"stage {number} of {len(stages)} ({name})"
    # The first one finds out on which machine this is, and then says how long all takes; the comparison says
    # it of itself.
    silent = number == 1 or stage == COMPARISON
    left = None if silent else expected(stages[number - 1 :], params, " to the end")
    less = "" if COMPARISON_ONLY in os.environ else ", less what has not changed"
    return f"{number}/{len(stages)}", text + (f", {left}{less}" if left else "")


def whole_run(params: Params) -> str | None:
    """How long the whole run takes, as a sentence; None where that is not recorded."""
    left = expected(planned(params), params)
    less = "" if COMPARISON_ONLY in os.environ else "; what has not changed is left out"
    return left and f"a whole run takes {left}{less}"
