"""Compile packages: ``python -m servebench.inference.compiled.package JOB``.

A process of its own: several run at once, and the memory that a compiler keeps is freed at its end.
"""

from __future__ import annotations

import itertools
import json
import sys
from contextlib import redirect_stdout
from operator import itemgetter
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from servebench.inference.card import read_card
from servebench.inference.compiled.backends import compile_packages
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
    """Compile the packages of the job (JSON: folder, device, packages); print a line for each batch size.

    Those of one batch size, which stand together, are of one graph on a CPU; on a GPU there is one of each.
    """
    job: dict[str, Any] = json.loads(sys.argv[1])
    folder, device = Path(job["folder"]), job["device"]
    for size, group in itertools.groupby(job["packages"], key=itemgetter("batch_size")):
        began = perf_counter()
        paths = {package["precision"]: Path(package["path"]) for package in group}
        model = eager_model(folder, device, next(iter(paths)) if device == "cuda" else "full")
        dtypes = {precision: getattr(torch, dtype_name(precision, device)) for precision in paths}
        with redirect_stdout(sys.stderr):  # whatever a compiler has to say
            compile_packages(
                model,
                example_batch(folder, device, size),
                {dtypes[precision]: path for precision, path in paths.items()},
            )
        line = {"batch_size": size, "seconds": (perf_counter() - began) / len(paths)}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
