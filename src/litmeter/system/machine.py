"""The machine's fingerprint (hardware, compilers, environment), and a lock for one run at a time."""

from __future__ import annotations

import ast
import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import PackageNotFoundError, distributions, requires, version
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from litmeter.paths import MACHINE
from litmeter.system.cores import allowed_cpus, available_cores
from litmeter.system.files import digest, json_digest, read_json
from litmeter.system.gpu import describe_gpu
from litmeter.system.temporary import SET_STATE, own_folder

EXTRAS = ("", "train", "compile")
"""litmeter's extras whose packages may affect figures; those of the others (DVC, Ray, test tools) do not."""
CARRIERS = ("anyio", "greenlet", "opentelemetry-api", "pydantic-core")
"""Packages that carry each request, below litmeter's direct requirements."""
COMPILERS = ("torch", "timm", "openvino")
"""Libraries that make the packages of a compiled model."""
VARIABLES = re.compile("((OMP|MKL)_[^=]*|ONEDNN_MAX_CPU_ISA|LD_PRELOAD|CUDA_VISIBLE_DEVICES)=.")
"""Environment variables that affect speed."""
PATCH = re.compile(rb'(": "\d+\.\d+)\.\d+')
"""A version in metrics/machine.json, up to its patch number."""
CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "sve")
"""Instruction sets that affect the speed of matrix products."""


def hardware() -> dict[str, Any]:
    """This machine's hardware, and its hash as ``id``."""
    cpu = _proc_cpuinfo()
    machine: dict[str, Any] = {
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "cpu_flags": [flag for flag in CPU_FLAGS if flag in cpu_flags()],
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": platform.system(),
        **describe_gpu(),
    }
    return {"id": json_digest(machine), **machine}


def compilers() -> dict[str, Any]:
    """Everything that a compiled model's packages depend on: hardware, and versions of COMPILERS."""
    return hardware() | _versions(COMPILERS)


def fingerprint(sources: Iterable[Path] = (), *more: str) -> dict[str, Any]:
    """Everything that affects figures: hardware, cores, environment variables, versions of libraries.

    The libraries are litmeter's requirements, CARRIERS, packages imported by the Python files among
    ``sources``, and ``more``.
    """
    variables = {key: value for key, value in sorted(os.environ.items()) if VARIABLES.match(f"{key}={value}")}
    libraries = {*_required(), *CARRIERS, *_imported(sources), *more}
    cores, cpus = available_cores(), len(allowed_cpus())
    usable = {"cores": cpus} if cores == cpus else {"cores": cores, "cpus": cpus}  # under a smaller quota
    python = {"python": platform.python_version()}
    return hardware() | usable | variables | python | _versions(sorted(libraries))


def recorded_machine() -> dict[str, str]:
    """From metrics/machine.json: the machine's ``id``, and a hash of all that affects figures but patches."""
    releases = PATCH.sub(rb"\1", MACHINE.read_bytes())
    return {"machine": read_json(MACHINE)["id"], "environment": digest(releases)}


def _required() -> Iterator[str]:
    """litmeter's requirements, from the installed metadata."""
    for needed in map(Requirement, requires("litmeter") or ()):
        if not needed.marker or any(needed.marker.evaluate({"extra": extra}) for extra in EXTRAS):
            yield canonicalize_name(needed.name)


def _imported(sources: Iterable[Path]) -> set[str]:
    """The packages that Python files import."""
    imported = {name for path in sources if path.suffix == ".py" for name in _imported_modules(path)}
    packages = packages_by_module() if imported else {}
    return {canonicalize_name(package) for name in imported for package in packages.get(name, ())}


def _versions(libraries: Iterable[str]) -> dict[str, str]:
    """Versions of the installed ones among ``libraries``."""
    found = {}
    for name in libraries:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def packages_by_module() -> dict[str, set[str]]:
    """The installed packages that provide each top-level module.

    Python 3.10's packages_distributions omits packages without a list of modules, such as numpy.
    """
    found: dict[str, set[str]] = {}
    for package in distributions():
        if "Name" not in package.metadata:  # what is left of one that was removed
            continue
        name = package.metadata["Name"]
        listed = (package.read_text("top_level.txt") or "").split()
        for module in listed or {file.parts[0].split(".")[0] for file in package.files or ()}:
            found.setdefault(module, set()).add(name.lower())
    return found


def _imported_modules(path: Path) -> Iterator[str]:
    """The top-level modules that a file imports anywhere; none for invalid Python."""
    with suppress(SyntaxError, ValueError):
        for node in ast.walk(ast.parse(path.read_bytes())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            yield from (name.partition(".")[0] for name in names)


def cpu_flags() -> set[str]:
    """All flags in /proc/cpuinfo; empty without that file (macOS)."""
    cpu = _proc_cpuinfo()
    return set((cpu.get("flags") or cpu.get("Features") or "").split())


def _proc_cpuinfo() -> dict[str, str]:
    """The first processor in /proc/cpuinfo; empty without that file (macOS)."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def lock_file() -> Path:
    """One per user and machine (machines may share a home), as other clones compute on the same cores."""
    return own_folder() / f"{platform.node()}.lock"


@contextmanager
def exclusive_machine() -> Iterator[None]:
    """Hold the machine's lock, which ends with this process; wait, with a message, for another holder."""
    lock = FileLock(path := lock_file())
    with ExitStack() as stack:
        try:
            stack.enter_context(lock.acquire(blocking=False))
        except Timeout:
            print(f"litmeter is at work on this machine already; waiting for it ({path})", flush=True)
            stack.enter_context(lock.acquire())
        except (NotImplementedError, OSError) as error:  # a file system without locks
            print(f"note: {path} has no lock ({error}), which keeps runs apart; {SET_STATE}", file=sys.stderr)
        yield
