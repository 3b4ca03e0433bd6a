"""A model that runs the packages compiled for its batch sizes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch

from litmeter.inference.compiled.backends import BatchModel, load_package
from litmeter.inference.compiled.manifest import packages_to_use, verified_file
from litmeter.inference.device import dtype_name
from litmeter.paths import ModelFolders


class CompiledModel:
    """Splits a batch of any size into the sizes that have been compiled, largest first.

    Args:
        build_eager: builds the model as timm does, for sizes without a faster package; not called where
            the packages make up every size.
        folders: of the packages and the exported model they belong to.
    """

    def __init__(
        self,
        build_eager: Callable[[], BatchModel],
        folders: ModelFolders,
        precision: str,
        device: torch.device,
    ) -> None:
        self._packages: dict[int, BatchModel] = {}
        dtype = getattr(torch, dtype_name(precision, device.type))
        for package in packages_to_use(folders, device.type, precision):
            path = verified_file(folders.compiled, package)
            self._packages[package.batch_size] = load_package(path, dtype, device)
        self._sizes = sorted(self._packages, reverse=True)
        self._eager = None if 1 in self._packages else build_eager()

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of images (N, 3, height, width)."""
        return run_in_parts(batch, split(len(batch), self._sizes), self._model_of)

    def _model_of(self, size: int) -> BatchModel:
        model = self._packages.get(size, self._eager)
        assert model is not None
        return model


def run_in_parts(
    batch: torch.Tensor, sizes: Sequence[int], model_of: Callable[[int], BatchModel]
) -> torch.Tensor:
    """Logits of a batch, run in parts of these ``sizes``, each by the model of its size."""
    if len(sizes) == 1:
        return model_of(sizes[0])(batch)
    ends = itertools.accumulate(sizes)
    return torch.cat([model_of(size)(batch[end - size : end]) for size, end in zip(sizes, ends, strict=True)])


def split(number: int, sizes: list[int]) -> list[int]:
    """``number`` as a sum of ``sizes`` (descending), the largest first, and of the remainder."""
    summands = []
    for size in sizes:
        summands += [size] * (number // size)
        number %= size
    return [*summands, number] if number else summands
