"""The exported model -> packages for this machine, where they are faster.

Static shapes: one package for each precision and batch size. On a CPU each runs on one thread, so that
as many workers as there are cores share them without waiting for each other.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

from servebench.errors import ServebenchError
from servebench.inference.card import sha256
from servebench.inference.compiled.manifest import MANIFEST_NAME, Manifest, Package, identity
from servebench.inference.environment import worker_environment
from servebench.params import ServeSettings
from servebench.paths import ModelFolders
from servebench.stats.paired import paired_ratio
from servebench.system.files import atomic_folder, write_json
from servebench.system.processes import log_tail, process_group
from servebench.system.progress import bar
from servebench.system.temporary import scratch

PRECISIONS = ("full", "half")


def compile_model(folders: ModelFolders, device: str, sizes: Sequence[int]) -> Manifest:
    """Compile every package, measure what each brings, and write them with their manifest.

    Raises:
        ServebenchError: a package cannot be run.
    """
    wanted = [(precision, size) for precision in PRECISIONS for size in sizes]
    exported = folders.exported
    skipped_reason, packages = None, []
    with atomic_folder(folders.compiled) as temporary:
        if not wanted:
            skipped_reason = "compile.batch_sizes is empty"
        elif device == "cuda" and not cxx_compiler():
            skipped_reason = "there is no C++ compiler (g++ or clang++)"
        else:
            packages = measure(exported, device, build_all(exported, temporary, device, wanted))
        model, machine = identity(exported)
        manifest = Manifest(
            model=model, machine=machine, device=device, skipped_reason=skipped_reason, packages=packages
        )
        write_json(temporary / MANIFEST_NAME, manifest.model_dump())
    return manifest


def cxx_compiler() -> str | None:
    """The C++ compiler that torch will find."""
    return shutil.which(os.environ.get("CXX") or "g++") or shutil.which("clang++")


@dataclass(frozen=True)
class Built:
    """What became of one package; ``failure`` says why there is none."""

    precision: str
    batch_size: int
    path: Path
    seconds: float
    failure: str | None


def build_all(exported: Path, folder: Path, device: str, wanted: Sequence[tuple[str, int]]) -> list[Built]:
    """Compile packages, as many at a time as there are cores."""
    with (
        bar(len(wanted), "compiling", "package") as progress,
        ThreadPoolExecutor(os.cpu_count() or 1) as pool,
    ):
        done = []
        for one in pool.map(lambda pair: build(exported, folder, device, *pair), wanted):
            progress.update()
            done.append(one)
        return done


def build(exported: Path, folder: Path, device: str, precision: str, size: int) -> Built:
    """Compile one package in a process of its own."""
    path = folder.resolve() / f"{precision}-{size}.package"
    order = {
        "folder": str(exported),
        "device": device,
        "precision": precision,
        "batch_size": size,
        "path": str(path),
    }
    started = perf_counter()
    with scratch() as temporary:
        log = temporary / "log"
        own = {
            "TMPDIR": str(temporary),
            "TORCHINDUCTOR_CACHE_DIR": str(temporary),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
        }
        command = [sys.executable, "-m", "servebench.inference.compiled.package", json.dumps(order)]
        with (
            log.open("wb") as output,
            process_group(command, stdout=output, stderr=output, env=os.environ | own) as process,
        ):
            status = process.wait()
        failure = f"it cannot be compiled{log_tail(log)}" if status else None
    return Built(precision, size, path, perf_counter() - started, failure)


def measure(exported: Path, device: str, built: Sequence[Built]) -> list[Package]:
    """The packages with what each brings; one that brings nothing is not used.

    Raises:
        ServebenchError: a package cannot be run.
    """
    good = [one for one in built if one.failure is None]
    order = {
        "folder": str(exported),
        "device": device,
        "packages": [
            {"precision": one.precision, "batch_size": one.batch_size, "path": str(one.path)} for one in good
        ],
    }
    command = [sys.executable, "-m", "servebench.inference.compiled.gain", json.dumps(order)]
    environment = worker_environment(ServeSettings(keep_freed_memory=True))
    with (
        scratch() as temporary,
        (log := temporary / "log").open("wb") as stderr,
        process_group(
            command, stdout=subprocess.PIPE, stderr=stderr, env=environment | {"TMPDIR": str(temporary)}
        ) as process,
    ):
        assert process.stdout is not None
        times = [json.loads(line) for line in process.stdout]
        if process.wait() or len(times) != len(good):
            raise ServebenchError(f"a compiled model cannot be run{log_tail(log)}")
    by_path = {one.path: found for one, found in zip(good, times, strict=True)}
    return [package_of(one, **by_path.get(one.path, {})) for one in built]


def package_of(one: Built, eager_ms: Sequence[float] = (), compiled_ms: Sequence[float] = ()) -> Package:
    """The manifest's entry for a package that was compiled, or was not.

    Args:
        eager_ms, compiled_ms: the model's run on a batch, by round; none where it was not compiled.
    """
    return Package.model_validate(
        {
            "precision": one.precision,
            "batch_size": one.batch_size,
            "file": None if one.failure else one.path.name,
            "sha256": None if one.failure else sha256(one.path),
            "eager_ms": round(median(eager_ms), 3) if eager_ms else None,
            "compiled_ms": round(median(compiled_ms), 3) if compiled_ms else None,
            "compile_s": round(one.seconds, 1),
            "skipped_reason": one.failure or not_faster(eager_ms, compiled_ms),
        }
    )


def not_faster(eager_ms: Sequence[float], compiled_ms: Sequence[float]) -> str | None:
    """Why a package is not used: it is slower, or no difference is resolved; None where it is faster."""
    gain = paired_ratio(eager_ms, compiled_ms)
    if gain.resolved and gain.ratio > 1:
        return None
    how = "slower" if gain.resolved else "no difference resolved"
    return f"{how}: {gain.ratio:.2f} times the rate ({gain.low:.2f} to {gain.high:.2f})"


def describe(manifest: Manifest) -> Iterator[str]:
    """What has been compiled, in lines."""
    if manifest.skipped_reason:
        yield f"not compiled: {manifest.skipped_reason}; models run as timm builds them"
    for package in manifest.packages:
        text = f"{package.precision}, batch {package.batch_size}, compiled in {package.compile_s:.0f} s"
        if package.compiled_ms is not None:
            text += f": {package.compiled_ms:.1f} ms, {package.eager_ms:.1f} ms as timm builds it"
        yield text + (f"; not used: {package.skipped_reason}" if package.skipped_reason else "")
