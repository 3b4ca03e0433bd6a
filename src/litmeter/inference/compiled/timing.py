"""Time compiled packages, in processes of their own, and say in the manifest which are used."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from statistics import median
from typing import Any

from litmeter.errors import LitmeterError
from litmeter.inference.card import sha256
from litmeter.inference.compiled.manifest import Package
from litmeter.inference.environment import worker_environment
from litmeter.params import ServeSettings
from litmeter.system.processes import log_tail, process_group
from litmeter.system.progress import bar
from litmeter.system.side_by_side import OnStart, side_by_side
from litmeter.system.temporary import scratch


@dataclass(frozen=True)
class BuildResult:
    """A package that was compiled, or the ``failure`` to compile it."""

    precision: str
    batch_size: int
    path: Path
    seconds: float
    failure: str | None


def time_packages(exported: Path, device: str, results: Sequence[BuildResult]) -> list[Package]:
    """Time each compiled package against the model as timm builds it; return the manifest's entries.

    On a CPU those of several precisions are timed at once, one for each core: workers share the cores, too.

    Raises:
        LitmeterError: a package cannot be run.
    """
    compiled = [result for result in results if result.failure is None]
    by_precision = itertools.groupby(compiled, key=attrgetter("precision"))
    processes = 1 if device == "cuda" else os.cpu_count() or 1
    with bar(len(compiled), "timing", "package") as progress:
        jobs = [
            partial(timing_job, exported, device, list(group), progress.update) for _, group in by_precision
        ]
        timed = {
            (one["precision"], one["batch_size"]): (one["timing"], one["reason"], one["remark"])
            for one in itertools.chain.from_iterable(side_by_side(jobs, processes))
        }
    return [
        manifest_entry(result, *timed.get((result.precision, result.batch_size), ({}, None, None)))
        for result in results
    ]


def timing_job(
    exported: Path,
    device: str,
    results: Sequence[BuildResult],
    on_done: Callable[[], object],
    on_start: OnStart,
) -> list[dict[str, Any]]:
    """Time packages in a process of its own; what it says of each (see ``gain.main``).

    Args:
        on_done: called when a package is done.
        on_start: called with the process.

    Raises:
        LitmeterError: a package cannot be run.
    """
    job = {
        "folder": str(exported),
        "device": device,
        "packages": [
            {"precision": result.precision, "batch_size": result.batch_size, "path": str(result.path)}
            for result in results
        ],
    }
    command = [sys.executable, "-m", "litmeter.inference.compiled.gain", json.dumps(job)]
    environment = worker_environment(ServeSettings(keep_freed_memory=True))
    with (
        scratch() as temporary,
        (log := temporary / "log").open("wb") as stderr,
        process_group(
            command, stdout=subprocess.PIPE, stderr=stderr, env=environment | {"TMPDIR": str(temporary)}
        ) as process,
    ):
        on_start(process)
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(json.loads(line))
            on_done()
        if process.wait() or len(lines) != len(results):
            raise LitmeterError(f"a compiled model cannot be run{log_tail(log)}")
    return lines


def manifest_entry(
    result: BuildResult, timing: Mapping[str, Sequence[float]], reason: str | None, remark: str | None
) -> Package:
    """The manifest's entry for a package.

    Args:
        timing: see ``gain.Timing``; empty where it was not compiled.
        reason: why it is not used, None where it is.
        remark: what is to be said of it where it is used, None for nothing.
    """
    names = ("eager_ms", "compiled_ms", "parts_ms")
    medians = {name: round(median(timing[name]), 3) if timing.get(name) else None for name in names}
    return Package.model_validate(
        {
            "precision": result.precision,
            "batch_size": result.batch_size,
            "file": None if result.failure else result.path.name,
            "sha256": None if result.failure else sha256(result.path),
            **medians,
            "compile_s": round(result.seconds, 1),
            "skipped_reason": result.failure or reason,
            "remark": remark,
        }
    )
