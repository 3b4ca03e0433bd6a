"""The exported model on a device: image bytes -> tensor -> probabilities.

The server's workers and the in-process baseline run this very code, so their rates compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file

from servebench.card import WEIGHTS_NAME, ModelCard, read_card
from servebench.compiled.backends import Run
from servebench.compiled.model import CompiledModel
from servebench.device import dtype_name
from servebench.model import model_of, transform_of
from servebench.params import ServeSettings
from servebench.serving.fast import FastTransform, Normalised
from servebench.serving.image import decode

CPU_OUT_OF_MEMORY = "DefaultCPUAllocator: can't allocate memory"
"""How torch says so on a CPU, for which it has no exception of its own."""


class PilTransform:
    """timm's own transform on PIL images: what most people run."""

    def __init__(self, card: ModelCard) -> None:
        self._transform = transform_of(card)

    def decode(self, content: bytes) -> Image.Image:
        """The RGB image in an image file.

        Raises:
            ImageError: ``content`` is not a whole image, or is too large to decode.
        """
        return decode(content)

    def transform(self, image: Image.Image) -> torch.Tensor:
        """Resize, crop, normalise: float32 (3, size, size)."""
        tensor: torch.Tensor = self._transform(image)
        return tensor


class Classifier:
    """An exported model, ready to answer.

    Args:
        folder: where ``export`` put weights and card.
        device: ``cpu`` or ``cuda``, with an index or without.
        settings: precision, threads, preprocessing and compiling are those of this configuration.

    Raises:
        ModelError: there is no such model, or no packages compiled from it on this machine.
    """

    def __init__(self, folder: Path, device: str, settings: ServeSettings) -> None:
        self.card = read_card(folder)
        self.device = torch.device(device)
        self.dtype = getattr(torch, dtype_name(settings.precision, device))
        if settings.threads_per_worker is not None:
            torch.set_num_threads(settings.threads_per_worker)
        # Full precision means IEEE float32: without this, convolutions on a GPU run in TF32.
        torch.backends.cudnn.allow_tf32 = False
        model = model_of(self.card)
        model.load_state_dict(load_file(folder / WEIGHTS_NAME))
        model = model.to(self.device, self.dtype)
        self.run: Run = model
        self._images: PilTransform | FastTransform = PilTransform(self.card)
        if settings.preprocess == "fast":
            # As its batches are.
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.run = Normalised(model, self.card, self.device, self.dtype)
            self._images = FastTransform(self.card)
        if settings.compiled:
            # Its packages lie beside the model that they were compiled from.
            packages = folder.parent / "compiled"
            self.run = CompiledModel(self.run, packages, folder, settings.precision, self.device)

    def decode(self, content: bytes) -> Any:
        """The RGB image in an image file, in the form that ``transform`` takes.

        Raises:
            ImageError: ``content`` is not a whole image, or is too large to decode.
        """
        return self._images.decode(content)

    def transform(self, image: Any) -> torch.Tensor:
        """The image as a batch is made of it, on the CPU: normalised float32, or uint8, (3, size, size)."""
        return self._images.transform(image)

    def preprocess(self, content: bytes) -> torch.Tensor:
        """Decode and transform one image file.

        Raises:
            ImageError: ``content`` is not a whole image, or is too large to decode.
        """
        return self.transform(self.decode(content))

    def batch(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """Preprocessed images, (N, 3, size, size) on the device as ``forward`` takes them.

        Bytes stay in the order in which they were decoded, channels last, and go to a GPU from page-locked
        memory, which torch keeps until they are there.
        """
        if images[0].is_floating_point():
            return torch.stack(list(images)).to(self.device, self.dtype)
        stacked = torch.empty(
            (len(images), *images[0].shape),
            dtype=images[0].dtype,
            memory_format=torch.channels_last,
            pin_memory=self.device.type == "cuda",
        )
        return torch.stack(list(images), out=stacked).to(self.device, non_blocking=True)

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
