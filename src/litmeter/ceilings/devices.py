"""Peak rates of common NVIDIA GPUs, from NVIDIA's documents, dense (without sparsity).

``full`` is FP32 on the CUDA cores, ``half`` FP16 on the tensor cores with FP32 accumulation. TF32 is
neither: it has float32's range and FP16's precision, and the server switches it off.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """A GPU's datasheet.

    Attributes:
        pattern: regular expression for the name that CUDA reports.
        full_tflops, half_tflops: 10^12 FLOP/s.
    """

    name: str
    pattern: str
    full_tflops: float
    half_tflops: float
    source: str


DEVICES = (
    Device("T4", r"\bT4\b", 8.1, 65.0, "NVIDIA T4 datasheet"),
    Device("V100 SXM2", r"V100-SXM2", 15.7, 125.0, "NVIDIA V100 datasheet"),
    Device("V100 PCIe", r"V100-PCIE", 14.0, 112.0, "NVIDIA V100 datasheet"),
    Device("A10", r"\bA10\b", 31.2, 125.0, "NVIDIA A10 datasheet"),
    Device("A30", r"\bA30\b", 10.3, 165.0, "NVIDIA A30 datasheet"),
    Device("A40", r"\bA40\b", 37.4, 149.7, "NVIDIA A40 datasheet"),
    Device("A100", r"\bA100\b", 19.5, 312.0, "NVIDIA A100 datasheet"),
    Device("L4", r"\bL4\b", 30.3, 121.0, "NVIDIA L4 datasheet (half of the sparse figure)"),
    Device("L40", r"\bL40\b", 90.5, 181.05, "NVIDIA L40 datasheet"),
    Device("L40S", r"\bL40S\b", 91.6, 362.05, "NVIDIA L40S datasheet"),
    Device("H100 PCIe", r"H100 PCIe", 51.0, 756.0, "NVIDIA H100 datasheet (half of sparse)"),
    Device("H100 SXM", r"H100(?! PCIe| NVL)", 67.0, 989.0, "NVIDIA H100 datasheet (half of sparse)"),
    Device("H200 SXM", r"\bH200\b(?! NVL)", 67.0, 989.0, "NVIDIA H200 datasheet (half of sparse)"),
    Device("RTX 3090", r"RTX 3090(?! Ti)", 35.6, 71.0, "NVIDIA Ampere GA102 whitepaper, table 9"),
    Device("RTX 4090", r"RTX 4090(?! D)", 82.6, 165.2, "NVIDIA Ada whitepaper, appendix A"),
)


def find_device(gpu_name: str | None) -> Device | None:
    """The datasheet of the GPU that CUDA calls ``gpu_name``, None where it is not in the table."""
    if gpu_name is None:
        return None
    return next((device for device in DEVICES if re.search(device.pattern, gpu_name)), None)
