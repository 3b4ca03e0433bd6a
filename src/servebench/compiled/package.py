"""Compile one precision and batch size: ``python -m servebench.compiled.package ORDER``.

A process of its own: several run at once, and none is left with what a compiler leaves behind.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from servebench.params import ServeSettings
from servebench.serving.classifier import Classifier

OPTIONS = {"freezing": True}
"""Weights become constants: folded, packed for the processor's matrix units, and part of the package."""


def main() -> None:
    """Compile as the order says (JSON: folder, device, precision, batch_size, path)."""
    order: dict[str, Any] = json.loads(sys.argv[1])
    settings = ServeSettings(precision=order["precision"], threads_per_worker=1)
    classifier = Classifier(Path(order["folder"]), order["device"], settings)
    example = classifier.example(order["batch_size"])
    with torch.no_grad():
        exported = torch.export.export(classifier.model, (example,))
        torch._inductor.aoti_compile_and_package(
            exported, package_path=order["path"], inductor_configs=OPTIONS
        )


if __name__ == "__main__":
    main()
