"""Stage ``machine``: a stable fingerprint of hardware and libraries, after a check of params.yaml.

It runs first in every ``dvc repro``, so a mistake in any section is found before anything is
trained. What it writes moves only when the hardware or a library does, and with it what is measured.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gpustat
import psutil
import timm
import torch

from servebench.device import describe_machine, resolve_device
from servebench.errors import ParamsError
from servebench.params import Params, load_params
from servebench.paths import MACHINE
from servebench.results import write_json

LIBRARIES = ("torch", "torchvision", "timm", "litserve", "openvino", "pillow", "locust")
CPU_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "sve",
)
"""Instruction sets that change how fast a matrix product is."""


def main() -> None:
    """Check params.yaml, then write the fingerprint."""
    params = load_params()
    check_params(params)
    machine = fingerprint()
    write_json(MACHINE, machine)
    print(describe_machine(machine))


def check_params(params: Params) -> None:
    """Check what a schema cannot: names that must exist on this machine.

    Raises:
        ParamsError: an unknown model, a folder or file that is not there, a device without one.
    """
    if not timm.is_model(params.model.name):
        near = difflib.get_close_matches(params.model.name, timm.list_models(), n=3)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise ParamsError(
            f"model.name: got {params.model.name!r}; allowed: any model of timm {timm.__version__}{hint}"
        )
    if not params.data.download and not Path(params.data.folder).is_dir():
        raise ParamsError(f"data.folder: got {params.data.folder!r}; allowed: an existing folder")
    if params.model.checkpoint and not Path(params.model.checkpoint).is_file():
        raise ParamsError(f"model.checkpoint: got {params.model.checkpoint!r}; allowed: null or a file")
    check_pretrained(params)
    resolve_device(params.device, torch.cuda.is_available())


def check_pretrained(params: Params) -> None:
    """Raise ParamsError where ``model.pretrained`` has no weights for the model."""
    from servebench.training.weights import PACKAGE_MODEL

    wanted = params.model.pretrained
    if wanted == "package" and params.model.name != PACKAGE_MODEL:
        raise ParamsError(
            f"model.pretrained: got 'package', which has weights of {PACKAGE_MODEL} only, for "
            f"{params.model.name}; allowed: hub, none, or the path of a state dict"
        )
    if wanted not in ("package", "hub", "none") and not Path(wanted).is_file():
        raise ParamsError(
            f"model.pretrained: got {wanted!r}; allowed: package, hub, none, or an existing file"
        )


def fingerprint() -> dict[str, Any]:
    """What this machine is; the same on every run, until hardware or libraries change."""
    found: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "cpu_flags": _cpu_flags(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": platform.system(),
        **_gpu(),
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }
    digest = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
    return {"id": digest[:12], **found}


def _proc_cpuinfo() -> dict[str, str]:
    """The first processor in /proc/cpuinfo; empty where there is none (macOS)."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def _cpu_model() -> str:
    return _proc_cpuinfo().get("model name") or platform.processor() or platform.machine()


def _cpu_flags() -> list[str]:
    info = _proc_cpuinfo()
    present = set((info.get("flags") or info.get("Features") or "").split())
    return [flag for flag in CPU_FLAGS if flag in present]


def _gpu() -> dict[str, Any]:
    """The first CUDA device; null without one."""
    if not torch.cuda.is_available():
        return {
            "gpu": None,
            "gpu_count": 0,
            "gpu_memory_gib": None,
            "gpu_driver": None,
            "cuda": None,
        }
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "gpu_count": torch.cuda.device_count(),
        "gpu_memory_gib": round(properties.total_memory / 2**30),
        "gpu_driver": gpustat.new_query().driver_version,
        "cuda": torch.version.cuda,
    }
