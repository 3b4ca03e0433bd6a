"""Which stage of how many a run has reached, and how long each stage took when it last ran here."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from litmeter.errors import UsageError
from litmeter.params import Params, load_params
from litmeter.paths import DVC_FILE, SECONDS
from litmeter.say.progress import duration
from litmeter.system.files import read_json, write_json


def planned(params: Params) -> list[str]:
    """The stages in the order in which `dvc repro` runs them, each with its argument: "benchmark e1"."""
    if not DVC_FILE.exists():
        raise UsageError(f"{Path.cwd()} has no {DVC_FILE}, whose stages are run")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C it takes 2 ms instead of 50
    stages = yaml.load(DVC_FILE.read_bytes(), loader)["stages"]  # noqa: S506
    return [
        " ".join(stage.get("do", stage)["cmd"].replace("${key}", key).split()[2:])
        for stage in stages.values()
        for key in (params.experiments if "foreach" in stage else [""])
    ]


def last_seconds() -> dict[str, Any]:
    """How long each stage took when it last ran here; empty before the first run."""
    with suppress(OSError, ValueError):
        return dict(read_json(SECONDS))
    return {}


def record_seconds(stage: str, seconds: float) -> None:
    """Write how long ``stage`` took, if it is one of those that `dvc repro` runs."""
    if stage in planned(load_params()):
        write_json(SECONDS, last_seconds() | {stage: round(seconds, 1)})


def announcement(stage: str, params: Params) -> tuple[str, str] | None:
    """Where a run stands as ``stage`` begins, short and long; None for a stage outside of `dvc repro`."""
    stages = planned(params)
    if stage not in stages:
        return None
    number, took = stages.index(stage) + 1, last_seconds()
    text = f"stage {number} of {len(stages)} ({stage})"
    if stage in took:
        text += f"; last time it took {duration(took[stage])}"
    left = stages[number - 1 :]
    if len(left) > 1 and took.keys() >= set(left):
        text += f", and all from here {duration(sum(took[one] for one in left))}"
    return f"{number}/{len(stages)}", text
