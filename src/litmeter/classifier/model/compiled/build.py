"""Compile the exported model for this machine, and time the packages to decide which are used.

Shapes are static, so there is a package for each precision and batch size. On a CPU packages run on any
number of threads; which of them are used is decided by times on one, and on all cores where one says no.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from litmeter.classifier.model.card import sha256
from litmeter.classifier.model.compiled.manifest import (
    AOTI_SUFFIX,
    MANIFEST_NAME,
    SUFFIXES,
    Calibration,
    Manifest,
    Package,
    identity,
)
from litmeter.classifier.model.environment import keeping_freed_memory
from litmeter.classifier.model.precision import cannot_run_reason, dtype_name, precisions_on
from litmeter.errors import LitmeterError
from litmeter.paths import ModelFolders
from litmeter.say.progress import bar
from litmeter.system.cores import whole_cores
from litmeter.system.files import atomic_folder, write_json
from litmeter.system.processes import OnStart, json_lines_process, run_parallel

Variant = tuple[str, int]
"""Precision and batch size of a package."""
WORKER = "litmeter.classifier.model.compiled.package"
"""The module that compiles or times packages in processes of its own."""


def compile_model(
    folders: ModelFolders, device: str, sizes: Sequence[int], calibration: Sequence[Path]
) -> Manifest:
    """Compile a package for each precision and batch size, time them, and write them with their manifest.

    int8 needs photos for its ``calibration``. Raise LitmeterError if a package cannot be run.
    """
    precisions = [name for name in precisions_on(device) if name != "int8" or calibration]
    variants = [(precision, size) for precision in precisions for size in sizes]
    skipped_reason, packages, photos = None, [], None
    with atomic_folder(folders.compiled) as temporary:
        if not variants:
            skipped_reason = "compile.batch_sizes is empty"
        elif not (skipped_reason := missing_tool(device)):
            built = build_packages(folders.exported, temporary.resolve(), device, variants, calibration)
            packages = time_packages(folders.exported, temporary.resolve(), device, built)
        if "int8" in precisions:
            hashes = b"".join(hashlib.sha256(photo.read_bytes()).digest() for photo in calibration)
            photos = Calibration(
                photos=len(calibration), sha256=hashlib.sha256(hashes).hexdigest(), nncf=version("nncf")
            )
        model, machine = identity(folders.exported)
        manifest = Manifest(
            model=model,
            machine=machine,
            device=device,
            skipped_reason=skipped_reason,
            calibration=photos,
            packages=packages,
        )
        write_json(temporary / MANIFEST_NAME, manifest.model_dump())
    return manifest


def missing_tool(device: str) -> str | None:
    """Why packages for ``device`` cannot be compiled here; None where they can."""
    if SUFFIXES[device] == AOTI_SUFFIX and not (
        shutil.which(os.environ.get("CXX") or "g++") or shutil.which("clang++")
    ):
        return "there is no C++ compiler (g++ or clang++)"
    if device == "cuda":
        from torch.utils import cpp_extension  # takes seconds
        from torch.version import hip

        if not hip and cpp_extension.CUDA_HOME is None:
            return "there is no CUDA toolkit (CUDA_HOME, nvcc or /usr/local/cuda)"
    return None


def build_packages(
    exported: Path, folder: Path, device: str, variants: Sequence[Variant], calibration: Sequence[Path]
) -> list[Package]:
    """Compile packages into ``folder`` in as many processes as there are cores; they are not timed yet."""
    reasons = {name: cannot_run_reason(dtype_name(name, device), device) for name, _ in variants}
    packages = {
        (name, size): Package.model_validate(
            {"precision": name, "batch_size": size, "skipped_reason": reasons[name]}
        )
        for name, size in variants
    }
    environment = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
    cores = whole_cores()
    with bar(len(variants), "compiling", "package") as progress:

        def build(share: Sequence[Variant], on_start: OnStart) -> None:
            paths = {variant: folder / "{}-{}{}".format(*variant, SUFFIXES[device]) for variant in share}
            job: dict[str, Any] = {"do": "compile", "folder": str(exported), "device": device}
            job["packages"] = [(*variant, str(path)) for variant, path in paths.items()]
            if share[0][0] == "int8":
                job |= {"do": "quantise", "calibration": [str(photo) for photo in calibration]}
            try:
                with json_lines_process(WORKER, job, environment, "the compiler", on_start) as process:
                    while paths:
                        precision, size, seconds = process.answer()
                        path = paths.pop((precision, size))
                        made = {"file": path.name, "sha256": sha256(path), "compile_s": seconds}
                        packages[precision, size] = packages[precision, size].model_copy(update=made)
                        progress.update()
            except LitmeterError as error:
                failure = {"skipped_reason": f"it cannot be compiled: {error}"}
                packages.update({left: packages[left].model_copy(update=failure) for left in paths})

        possible = [variant for variant in variants if not reasons[variant[0]]]
        run_parallel([partial(build, share) for share in jobs_of(possible, device, cores)], cores)
    return list(packages.values())


def jobs_of(variants: Sequence[Variant], device: str, cores: int) -> list[list[Variant]]:
    """The packages that each process compiles.

    On a GPU every package has its own process. On a CPU one process makes all int8 packages of one graph; it
    takes longest and begins first. The other packages of a batch size share a graph, too, and the remaining
    cores share the batch sizes, as each process first imports what a compiler needs.
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


def time_packages(exported: Path, folder: Path, device: str, packages: Sequence[Package]) -> list[Package]:
    """Time each package in ``folder`` against the model in torch, and tell which packages are used.

    Packages of a batch size take turns, so that precisions can be compared. Raise LitmeterError where a
    package cannot be run.
    """
    timed = {(package.precision, package.batch_size): package for package in packages}
    paths = [(*variant, str(folder / own.file)) for variant, own in timed.items() if own.file is not None]
    job = {"do": "time", "folder": str(exported), "device": device, "packages": paths}
    with (
        bar(len(paths), "timing", "package") as progress,
        json_lines_process(
            WORKER, job, keeping_freed_memory(), "the process that runs the compiled models"
        ) as process,
    ):
        for _ in paths:
            precision, size, found = process.answer()
            timed[precision, size] = timed[precision, size].model_copy(update=found)
            progress.update()
    return list(timed.values())
