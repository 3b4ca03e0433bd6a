"""A model that runs the packages compiled for its batch sizes."""

from __future__ import annotations

import itertools

import torch

from servebench.inference.compiled.backends import Run, load_package
from servebench.inference.compiled.manifest import read_manifest, verified_file
from servebench.inference.device import dtype_name
from servebench.paths import ModelFolders


class CompiledModel:
    """Takes a batch of any size apart into the sizes that have been compiled, largest first.

    Args:
        eager: the model as it is, for sizes where compiling brought nothing.
        folders: where the packages lie, and the model they belong to.
    """

    def __init__(self, eager: Run, folders: ModelFolders, precision: str, device: torch.device) -> None:
        self._eager = eager
        self._runs: dict[int, Run] = {}
        dtype = getattr(torch, dtype_name(precision, device.type))
        for package in read_manifest(folders, device).packages:
            if package.precision == precision and package.skipped_reason is None:
                path = verified_file(folders.compiled, package)
                self._runs[package.batch_size] = load_package(path, dtype, device)
        self._sizes = sorted(self._runs, reverse=True)

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of images (N, 3, height, width)."""
        pieces = split(len(batch), self._sizes)
        if len(pieces) == 1:
            return self._runs.get(pieces[0], self._eager)(batch)
        ends = itertools.accumulate(pieces)
        return torch.cat(
            [
                self._runs.get(size, self._eager)(batch[end - size : end])
                for size, end in zip(pieces, ends, strict=True)
            ]
        )


def split(number: int, sizes: list[int]) -> list[int]:
    """``number`` as a sum of ``sizes`` (descending), the largest first; a rest is one piece of its own."""
    pieces = []
    for size in sizes:
        pieces += [size] * (number // size)
        number %= size
    return [*pieces, number] if number else pieces
