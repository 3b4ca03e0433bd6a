"""Compile one precision and batch size: ``python -m servebench.inference.compiled.package JOB``.

A process of its own: several run at once, and the memory that a compiler keeps is freed at its end.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from servebench.inference.card import read_card
from servebench.inference.compiled.backends import compile_package
from servebench.inference.device import dtype_name
from servebench.inference.model import PixelModel, load_model
from servebench.inference.preprocess import stack_images


def eager_model(folder: Path, device: str, precision: str) -> PixelModel:
    """The exported model in ``folder`` with its normalisation, as timm builds it: what is compiled."""
    torch.set_num_threads(1)
    card, target = read_card(folder), torch.device(device)
    dtype = getattr(torch, dtype_name(precision, device))
    return PixelModel(load_model(folder, card, target, dtype), card, target, dtype)


def example_batch(folder: Path, device: str, batch_size: int) -> torch.Tensor:
    """A batch of random pixels, uint8 (batch_size, 3, size, size), the same each time."""
    size = read_card(folder).image_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (batch_size, 3, size, size), dtype=torch.uint8, generator=generator)
    return stack_images(list(pixels), torch.device(device), torch.uint8)


def main() -> None:
    """Compile the package of the job (JSON: folder, device, precision, batch_size, path)."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    folder, device, precision = Path(job["folder"]), job["device"], job["precision"]
    model = eager_model(folder, device, precision if device == "cuda" else "full")
    example = example_batch(folder, device, job["batch_size"])
    dtype = getattr(torch, dtype_name(precision, device))
    compile_package(model, example, dtype, Path(job["path"]))


if __name__ == "__main__":
    main()
