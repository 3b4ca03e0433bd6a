"""Compile the exported model for this machine, time the packages, and decide which are used.

Shapes are static: one package for each precision and batch size. On a CPU each runs on one thread, so
that as many workers as there are cores share them without waiting for each other. Packages are compiled and
timed in processes of their own.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path
from statistics import median
from typing import Any

from litmeter.errors import LitmeterError
from litmeter.model.card import sha256
from litmeter.model.compiled.manifest import MANIFEST_NAME, Calibration, Manifest, Package, identity
from litmeter.model.device import cannot_run_reason, dtype_name, precisions_on
from litmeter.model.environment import worker_environment
from litmeter.params import ServeSettings
from litmeter.paths import ModelFolders
from litmeter.system.files import atomic_folder, write_json
from litmeter.system.processes import OnStart, log_tail, process_group, run_parallel
from litmeter.system.progress import bar
from litmeter.system.temporary import scratch


def compile_model(
    folders: ModelFolders, device: str, sizes: Sequence[int], calibration: Sequence[Path]
) -> Manifest:
    """Compile a package per precision and batch size, time them, and write them with their manifest.

    Args:
        calibration: photos that the quantisation to int8 is calibrated with; none: no int8.

    Raises:
        LitmeterError: a package cannot be run.
    """
    precisions = [one for one in precisions_on(device) if one != "int8" or calibration]
    variants = [(precision, size) for precision in precisions for size in sizes]
    exported = folders.exported
    skipped_reason, packages = None, []
    with atomic_folder(folders.compiled) as temporary:
        if not variants:
            skipped_reason = "compile.batch_sizes is empty"
        elif device == "cuda" and not cxx_compiler():
            skipped_reason = "there is no C++ compiler (g++ or clang++)"
        else:
            results = build_packages(exported, temporary, device, variants, calibration)
            packages = time_packages(exported, device, results)
        model, machine = identity(exported)
        manifest = Manifest(
            model=model,
            machine=machine,
            device=device,
            skipped_reason=skipped_reason,
            calibration=calibration_of(calibration) if "int8" in precisions else None,
            packages=packages,
        )
        write_json(temporary / MANIFEST_NAME, manifest.model_dump())
    return manifest


def calibration_of(photos: Sequence[Path]) -> Calibration:
    """What the quantisation depends on besides the model."""
    digest = hashlib.sha256(b"".join(hashlib.sha256(photo.read_bytes()).digest() for photo in photos))
    return Calibration(photos=len(photos), sha256=digest.hexdigest(), nncf=version("nncf"))


def cxx_compiler() -> str | None:
    """The C++ compiler that torch will find."""
    return shutil.which(os.environ.get("CXX") or "g++") or shutil.which("clang++")


def build_packages(
    exported: Path,
    folder: Path,
    device: str,
    variants: Sequence[tuple[str, int]],
    calibration: Sequence[Path],
) -> list[BuildResult]:
    """Compile packages into ``folder``, in as many processes at a time as there are cores.

    Args:
        variants: precision and batch size of each.
        calibration: photos for int8.
    """
    paths = {variant: folder.resolve() / "{}-{}.package".format(*variant) for variant in variants}
    reasons = {
        precision: cannot_run_reason(dtype_name(precision, device), device) for precision, _ in variants
    }
    results = [
        BuildResult(precision, size, path, 0.0, reasons[precision])
        for (precision, size), path in paths.items()
        if reasons[precision]
    ]
    possible = {variant: path for variant, path in paths.items() if not reasons[variant[0]]}
    cores = os.cpu_count() or 1
    with bar(len(variants), "compiling", "package") as progress:
        jobs = [
            partial(
                build_job,
                exported,
                device,
                {variant: paths[variant] for variant in job},
                calibration,
                progress.update,
            )
            for job in jobs_of(list(possible), device, cores)
        ]
        results += itertools.chain.from_iterable(run_parallel(jobs, cores))
    return sorted(results, key=lambda result: variants.index((result.precision, result.batch_size)))


def jobs_of(variants: Sequence[tuple[str, int]], device: str, cores: int) -> list[list[tuple[str, int]]]:
    """Which packages are compiled by the same process.

    On a GPU each has its own. On a CPU all in int8 are of one graph, which takes longest and begins first;
    the others of a batch size are of one graph. As many processes as there are cores share these sizes,
    beside int8 one less, as each first imports what a compiler needs.
    """
    if device == "cuda":
        return [[variant] for variant in variants]
    int8 = [variant for variant in variants if variant[0] == "int8"]
    others = [variant for variant in variants if variant[0] != "int8"]
    sizes = sorted({size for _, size in others})
    processes = max(1, cores - 1) if int8 else cores
    jobs = [
        [variant for size in sizes[number::processes] for variant in others if variant[1] == size]
        for number in range(processes)
    ]
    return [job for job in (int8, *jobs) if job]


def build_job(
    exported: Path,
    device: str,
    paths: Mapping[tuple[str, int], Path],
    calibration: Sequence[Path],
    on_done: Callable[[], object],
    on_start: OnStart,
) -> list[BuildResult]:
    """Compile packages in a process of its own.

    Args:
        paths: of each package, by precision and batch size.
        calibration: photos for int8.
        on_done: called when a package is done.
        on_start: called with the process.
    """
    job = {
        "folder": str(exported),
        "device": device,
        "packages": [
            {"precision": precision, "batch_size": size, "path": str(path)}
            for (precision, size), path in paths.items()
        ],
        "calibration": [str(photo) for photo in calibration],
    }
    seconds: dict[tuple[str, int], float] = {}
    with scratch() as temporary:
        log = temporary / "log"
        variables = {
            "TMPDIR": str(temporary),
            "TORCHINDUCTOR_CACHE_DIR": str(temporary),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
        }
        command = [sys.executable, "-m", "litmeter.model.compiled.package", json.dumps(job)]
        with (
            log.open("wb") as stderr,
            process_group(
                command, stdout=subprocess.PIPE, stderr=stderr, env=os.environ | variables
            ) as process,
        ):
            on_start(process)
            assert process.stdout is not None
            for line in process.stdout:
                done = json.loads(line)
                seconds[done["precision"], done["batch_size"]] = done["seconds"]
                on_done()
            process.wait()
        failure = f"it cannot be compiled{log_tail(log)}" if process.returncode else None
    return [
        BuildResult(*variant, path, seconds.get(variant, 0.0), None if variant in seconds else failure)
        for variant, path in paths.items()
    ]


def describe(manifest: Manifest) -> Iterator[str]:
    """A line for each package: how long it took to compile, its speed, and why it is not used."""
    if manifest.skipped_reason:
        yield f"not compiled: {manifest.skipped_reason}; models run as timm builds them"
    for package in manifest.packages:
        text = f"{package.precision}, batch {package.batch_size}"
        if package.file is not None:
            text += f", compiled in {package.compile_s:.0f} s"
        if package.compiled_ms is not None:
            text += f": {package.compiled_ms:.1f} ms"
        if package.eager_ms is not None:
            text += f", {package.eager_ms:.1f} ms as timm builds it"
        if package.parts_ms is not None:
            text += f", {package.parts_ms:.1f} ms by smaller packages"
        if package.skipped_reason:
            text += f"; not used: {package.skipped_reason}"
        if package.remark:
            text += f"; used, {package.remark}"
        yield text


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
            for one in itertools.chain.from_iterable(run_parallel(jobs, processes))
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
    command = [sys.executable, "-m", "litmeter.model.compiled.gain", json.dumps(job)]
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
