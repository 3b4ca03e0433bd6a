"""Compile one precision and batch size: ``python -m servebench.compiled.package ORDER``.

A process of its own: several run at once, and none is left with what a compiler leaves behind.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from servebench.compiled.backends import CannotCompileError, compile_package
from servebench.device import dtype_name
from servebench.params import ServeSettings
from servebench.serving.classifier import Classifier


def eager(folder: str, device: str, precision: str, batch_size: int) -> tuple[torch.nn.Module, torch.Tensor]:
    """What is compiled, and a batch of random pixels for it."""
    settings = ServeSettings.model_validate(
        {"precision": precision, "preprocess": "fast", "threads_per_worker": 1}
    )
    classifier = Classifier(Path(folder), device, settings)
    assert isinstance(classifier.run, torch.nn.Module)
    size = classifier.card.image_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (batch_size, 3, size, size), dtype=torch.uint8, generator=generator)
    return classifier.run, classifier.batch(list(pixels))


def main() -> None:
    """Compile as the order says (JSON: folder, device, precision, batch_size, path)."""
    order: dict[str, Any] = json.loads(sys.argv[1])
    device, precision = order["device"], order["precision"]
    run, example = eager(
        order["folder"], device, precision if device == "cuda" else "full", order["batch_size"]
    )
    dtype = getattr(torch, dtype_name(precision, device))
    try:
        compile_package(run, example, dtype, Path(order["path"]))
    except CannotCompileError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
