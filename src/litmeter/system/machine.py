"""The machine: its hardware, what compiles on it, what else bears on figures; a lock for a run at a time."""

from __future__ import annotations

import ast
import json
import os
import platform
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, distributions, requires, version
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from litmeter.paths import MACHINE
from litmeter.system.cores import allowed_cpus, available_cores
from litmeter.system.files import digest, read_json
from litmeter.system.gpu import describe_gpu

EXTRAS = ("", "train", "compile")
"""Of litmeter, whose packages may bear on figures; the others' (DVC, Ray, tools of tests) do not."""
CARRIERS = ("anyio", "greenlet", "opentelemetry-api", "pydantic-core")
"""What carries each request below the packages that litmeter itself requires."""
COMPILERS = ("torch", "timm", "openvino")
"""What makes the packages of a compiled model."""
VARIABLES = re.compile("((OMP|MKL)_[^=]*|ONEDNN_MAX_CPU_ISA|LD_PRELOAD|CUDA_VISIBLE_DEVICES)=.")
"""Environment variables that bear on speed, where they are set."""
CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "sve")
"""Instruction sets that change how fast a matrix product is."""


def hardware() -> dict[str, Any]:
    """What this machine is, and its hash as ``id``: another machine has another one."""
    cpu = _proc_cpuinfo()
    machine: dict[str, Any] = {
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "cpu_flags": [flag for flag in CPU_FLAGS if flag in cpu_flags()],
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": platform.system(),
        **describe_gpu(),
    }
    return {"id": digest(json.dumps(machine, sort_keys=True).encode()), **machine}


def compilers() -> dict[str, Any]:
    """What packages of a compiled model depend on: the hardware, and versions of what makes them."""
    return hardware() | _versions(COMPILERS)


def fingerprint(sources: Iterable[Path] = (), *more: str) -> dict[str, Any]:
    """All that bears on figures: hardware, cores, environment variables that are set, versions of libraries.

    The libraries are those that litmeter requires, CARRIERS, the packages from which the Python files among
    ``sources`` import, and ``more``.
    """
    variables = {key: value for key, value in sorted(os.environ.items()) if VARIABLES.match(f"{key}={value}")}
    libraries = {*_required(), *CARRIERS, *_imported(sources), *more}
    python = {"python": platform.python_version()}
    return hardware() | _cores() | variables | python | _versions(sorted(libraries))


def recorded_machine() -> dict[str, str]:
    """By metrics/machine.json, the ``id`` of the machine, and a hash of all that bears on its figures."""
    return {"machine": read_json(MACHINE)["id"], "environment": digest(MACHINE.read_bytes())}


def _cores() -> dict[str, float]:
    """Cores that this process may use; where a quota allows fewer than its CPUs, also these, as ``cpus``."""
    cores, cpus = available_cores(), len(allowed_cpus())
    return {"cores": cpus} if cores == cpus else {"cores": cores, "cpus": cpus}


def _required() -> Iterator[str]:
    """The packages that litmeter requires, by the metadata of its installation."""
    for one in map(Requirement, requires("litmeter") or ()):
        if not one.marker or any(one.marker.evaluate({"extra": extra}) for extra in EXTRAS):
            yield canonicalize_name(one.name)


def _imported(sources: Iterable[Path]) -> set[str]:
    """The packages from which Python files import."""
    imported = {name for path in sources if path.suffix == ".py" for name in _imported_modules(path)}
    packages = packages_by_module() if imported else {}
    return {canonicalize_name(package) for name in imported for package in packages.get(name, ())}


def _versions(libraries: Iterable[str]) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for name in libraries:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def packages_by_module() -> dict[str, set[str]]:
    """The installed packages that have each top-level module.

    Python 3.10's packages_distributions misses those without a list of their modules, such as numpy.
    """
    found: dict[str, set[str]] = {}
    for package in distributions():
        listed = (package.read_text("top_level.txt") or "").split()
        for module in listed or {file.parts[0].split(".")[0] for file in package.files or ()}:
            found.setdefault(module, set()).add(package.metadata["Name"].lower())
    return found


def _imported_modules(path: Path) -> Iterator[str]:
    """The top-level modules that a Python file imports, anywhere in it; none where it is not Python."""
    with suppress(SyntaxError, ValueError):
        for node in ast.walk(ast.parse(path.read_bytes())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            yield from (name.partition(".")[0] for name in names)


def cpu_flags() -> set[str]:
    """All flags in /proc/cpuinfo; empty where there is none (macOS)."""
    cpu = _proc_cpuinfo()
    return set((cpu.get("flags") or cpu.get("Features") or "").split())


def _proc_cpuinfo() -> dict[str, str]:
    """The first processor in /proc/cpuinfo; empty where there is none (macOS)."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


LOCK_FILE = Path(tempfile.gettempdir()) / f"litmeter-{os.getuid()}.lock"
"""One per user, outside the working tree: other clones, and DVC's queue, compute on the same cores."""


@contextmanager
def exclusive_machine() -> Iterator[None]:
    """Hold the machine's lock; wait, with a message, for who has it. A process that dies loses it."""
    lock = FileLock(LOCK_FILE)
    try:
        held = lock.acquire(blocking=False)
    except Timeout:
        print(f"litmeter is at work on this machine already; waiting for it ({LOCK_FILE})", flush=True)
        held = lock.acquire()
    with held:
        yield
