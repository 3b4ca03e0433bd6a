"""The exported model on a device: image bytes -> tensor -> probabilities.

The server's workers and the in-process baseline run this very code, so their rates compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from servebench.inference.card import read_card
from servebench.inference.compiled.backends import Run
from servebench.inference.compiled.model import CompiledModel
from servebench.inference.device import dtype_name
from servebench.inference.model import PixelModel, load_model
from servebench.inference.preprocess import TimmPreprocess, TorchvisionPreprocess, stack_images
from servebench.params import ServeSettings
from servebench.paths import ModelFolders

CPU_OUT_OF_MEMORY = "DefaultCPUAllocator: can't allocate memory"
"""How torch says so on a CPU, for which it has no exception of its own."""


class Predictor:
    """An exported model, ready to answer.

    Args:
        folders: where ``export`` put weights and card, and ``compile`` its packages.
        device: ``cpu`` or ``cuda``, with an index or without.
        settings: precision, threads, preprocessing and compiling are those of this configuration.

    Raises:
        ModelError: there is no such model, or no packages compiled from it on this machine.
    """

    def __init__(self, folders: ModelFolders, device: str, settings: ServeSettings) -> None:
        self.card = read_card(folders.exported)
        self.device = torch.device(device)
        self.dtype = getattr(torch, dtype_name(settings.precision, device))
        if settings.threads_per_worker is not None:
            torch.set_num_threads(settings.threads_per_worker)
        model = load_model(folders.exported, self.card, self.device, self.dtype)
        self.run: Run = model
        self._preprocess: TimmPreprocess | TorchvisionPreprocess = TimmPreprocess(self.card)
        if settings.preprocess == "torchvision":
            self.run = PixelModel(model, self.card, self.device, self.dtype)
            self._preprocess = TorchvisionPreprocess(self.card)
        if settings.compiled:
            self.run = CompiledModel(self.run, folders, settings.precision, self.device)

    def decode(self, content: bytes) -> Any:
        """The RGB image in an image file, in the form that ``transform`` takes.

        Raises:
            ImageError: ``content`` is not a whole image, or is too large to decode.
        """
        return self._preprocess.decode(content)

    def transform(self, image: Any) -> torch.Tensor:
        """The image as a batch is made of it, on the CPU: normalised float32, or uint8, (3, size, size)."""
        return self._preprocess.transform(image)

    def preprocess(self, content: bytes) -> torch.Tensor:
        """Decode and transform one image file.

        Raises:
            ImageError: ``content`` is not a whole image, or is too large to decode.
        """
        return self.transform(self.decode(content))

    def batch(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """Preprocessed images, (N, 3, size, size) on the device as ``forward`` takes them."""
        return stack_images(images, self.device, self.dtype)

    def predict(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """Class probabilities, float32 (N, classes) on the CPU, of preprocessed images.

        Raises:
            MemoryError: the device has none left for a batch of this size.
        """
        try:
            return self.forward(self.batch(images)).cpu()
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and CPU_OUT_OF_MEMORY not in str(error):
                raise
            reason = str(error).splitlines()[0]
        # Outside of the handler, whose traceback holds the tensors.
        raise MemoryError(reason)

    @torch.inference_mode()
    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Class probabilities, float32 (N, classes), of a batch."""
        return self.run(batch).float().softmax(dim=1)
