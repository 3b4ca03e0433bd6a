"""Post-training quantisation of the exported model to int8, by NNCF, for OpenVINO on a CPU."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import nncf
import openvino
import torch

from litmeter.inference.card import ModelCard
from litmeter.inference.preprocess import TorchvisionPreprocess

PRESET = nncf.QuantizationPreset.MIXED
"""Weights symmetric, activations asymmetric: as fast as symmetric ones, and closer to the model's answers."""


def quantise(model: torch.nn.Module, pixels: Sequence[torch.Tensor]) -> openvino.Model:
    """The graph of ``model`` with weights and activations in int8, where an operator has such a kernel.

    It takes batches of any size.

    Ranges of activations are those that ``pixels`` cause.

    Args:
        model: in float32, for pixels, uint8 (N, 3, size, size).
        pixels: of each calibration photo, uint8 (3, size, size).
    """
    images = [image.unsqueeze(0) for image in pixels]
    with torch.no_grad():  # of two images, as torch takes a size of one for a constant
        any_batch = ({0: torch.export.Dim.AUTO},)
        exported = torch.export.export(model, (torch.cat([images[0]] * 2),), dynamic_shapes=any_batch)
        graph = openvino.convert_model(exported)
    dataset = nncf.Dataset([image.contiguous().numpy() for image in images])
    quantised: openvino.Model = nncf.quantize(graph, dataset, preset=PRESET, subset_size=len(images))
    return quantised


def pixels_of_photos(paths: Iterable[Path], card: ModelCard) -> list[torch.Tensor]:
    """The photos as a server with ``preprocess: torchvision`` sees them: uint8 (3, size, size) each."""
    preprocess = TorchvisionPreprocess(card)
    return [preprocess.transform(preprocess.decode(path.read_bytes())) for path in paths]
