"""The machine: its hardware, libraries and GPU, and a lock that lets one run at a time compute."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from litmeter.system.cores import allowed_cpus, available_cores
from litmeter.system.gpu import describe_gpu

LIBRARIES = (
    *("torch", "torchvision", "timm", "litserve", "openvino", "pillow", "simplejpeg", "numpy"),
    *("fastapi", "starlette", "pydantic", "uvicorn", "uvloop", "httptools", "gevent"),
)
"""What computes, and what carries requests: those that are installed are part of the fingerprint."""
COMPILERS = ("torch", "timm", "openvino")
"""Those that make the packages of a compiled model."""
CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "sve")
"""Instruction sets that change how fast a matrix product is."""


def fingerprint(sources: Iterable[Path] = (), libraries: Sequence[str] = LIBRARIES) -> dict[str, Any]:
    """Hardware, library versions and their hash as ``id``; it changes only when one of them does.

    The libraries are ``libraries``, and the packages from which the Python files among ``sources`` import.
    """
    cpu = _proc_cpuinfo()
    machine: dict[str, Any] = {
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        **_cores(),
        "cpu_flags": [flag for flag in CPU_FLAGS if flag in cpu_flags()],
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": platform.system(),
        **describe_gpu(),
        "python": platform.python_version(),
        **_versions(sources, libraries),
    }
    digest = hashlib.sha256(json.dumps(machine, sort_keys=True).encode()).hexdigest()
    return {"id": digest[:12], **machine}


def _cores() -> dict[str, float]:
    """Cores that this process may use; where a quota allows fewer than its CPUs, also these, as ``cpus``."""
    cores, cpus = available_cores(), len(allowed_cpus())
    return {"cores": cpus} if cores == cpus else {"cores": cores, "cpus": cpus}


def _versions(sources: Iterable[Path], libraries: Sequence[str]) -> dict[str, str]:
    imported = {name for path in sources if path.suffix == ".py" for name in _imported(path)}
    packages = packages_by_module() if imported else {}
    others = {package for name in imported for package in packages.get(name, ())}
    found = {}
    for name in (*libraries, *sorted(others.difference(libraries))):
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


def _imported(path: Path) -> Iterator[str]:
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
