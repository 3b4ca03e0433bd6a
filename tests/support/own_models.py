"""Models of one's own: a module by a factory, and an ONNX file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

SIZE = 64
PREPROCESS: dict[str, Any] = {
    "size": SIZE,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "interpolation": "bilinear",
    "crop": 0.9,
}
NET = """
import torch


def make():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 5, padding=2, groups=8, bias=False),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, CLASSES),
    )
"""


def write_net(folder: Path, classes: int = 2) -> None:
    """The module ``net``, whose function ``make`` returns a small network."""
    (folder / "net.py").write_text(NET.replace("CLASSES", str(classes)))


def small_net(classes: int = 2) -> torch.nn.Module:
    """The network that ``net.make`` returns."""
    names: dict[str, Any] = {}
    exec(NET.replace("CLASSES", str(classes)), names)
    net: torch.nn.Module = names["make"]()
    return net.eval()


def write_onnx(path: Path, net: torch.nn.Module, shape: tuple[int, ...], any_batch: bool = True) -> None:
    """Write ``net`` as an ONNX file for images of this ``shape``, in batches of any size or of one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter needs one package less than the new one
        torch.onnx.export(
            net.eval(),
            (torch.zeros(1, *shape),),
            str(path),
            dynamo=False,
            input_names=["images"],
            dynamic_axes={"images": {0: "batch"}} if any_batch else None,
        )
