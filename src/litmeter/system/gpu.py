"""The first CUDA device: its existence, description, and present readings by NVML."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import gpustat
import pynvml

NVIDIA_DRIVER = "libcuda.so.1"
"""The driver's library: its devices in /dev may not exist before their first use."""
AMD_DEVICE = Path("/dev/kfd")
"""torch also calls AMD GPUs CUDA."""


def cuda_available() -> bool:
    """Whether torch is installed and can use a GPU; without a driver, torch, slow to import, is not asked."""
    if not (AMD_DEVICE.exists() or _has_nvidia_driver()) or find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def _has_nvidia_driver() -> bool:
    with suppress(OSError):
        ctypes.CDLL(NVIDIA_DRIVER)
        return True
    return False


def describe_gpu() -> dict[str, Any]:
    """The first CUDA device, for the fingerprint; null without a GPU."""
    if not cuda_available():
        return {"gpu": None, "gpu_count": 0, "gpu_memory_gib": None, "gpu_driver": None, "cuda": None}
    import torch

    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "gpu_count": torch.cuda.device_count(),
        "gpu_memory_gib": round(properties.total_memory / 2**30),
        "gpu_driver": _driver(),
        "cuda": torch.version.cuda,
    }


def _driver() -> str | None:
    """The driver's version; None without NVML, as in a container without the capability ``utility``."""
    with suppress(pynvml.NVMLError):
        return str(gpustat.new_query().driver_version)
    return None


class Reading(NamedTuple):
    """A GPU's present state, of all processes together; None: unknown.

    Attributes:
        percent, power_w: utilisation and power, means over up to a second (see nvidia-smi(1)).
        used_mib, free_mib: memory, except what the driver reserves.
    """

    percent: float | None
    power_w: float | None
    used_mib: float
    free_mib: float


def read_gpu() -> Reading:
    """Read torch's first CUDA device; raise pynvml.NVMLError without NVML, or if NVML does not know it."""
    handle = _handle()
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    percent = power_w = None
    with suppress(pynvml.NVMLError):
        percent = float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    with suppress(pynvml.NVMLError):
        power_w = pynvml.nvmlDeviceGetPowerUsage(handle) / 1000
    return Reading(percent, power_w, memory.used / 2**20, memory.free / 2**20)


@cache
def _handle() -> Any:
    # By UUID: NVML has another order than CUDA, and lists GPUs that CUDA_VISIBLE_DEVICES hides.
    pynvml.nvmlInit()
    return pynvml.nvmlDeviceGetHandleByUUID("GPU-" + cuda_uuid())


def cuda_uuid() -> str:
    """UUID of torch's first CUDA device, as CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER choose."""
    import torch

    return str(torch.cuda.get_device_properties(0).uuid).removeprefix("GPU-")
