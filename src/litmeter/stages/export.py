"""Stage ``export``: checkpoint -> weights as safetensors, model card and reference answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from litmeter.classifier.data.index import Index, read_index
from litmeter.classifier.model.card import CARD_NAME, WEIGHTS_NAME, ModelCard, sha256
from litmeter.classifier.model.environment import keep_freed_memory
from litmeter.classifier.model.model import build_model, input_config, load_model
from litmeter.classifier.model.own import files_of_factory
from litmeter.classifier.model.predictor import Predictor
from litmeter.classifier.model.reference import Reference, write_reference
from litmeter.classifier.model.settings import InferenceSettings, ModelParams
from litmeter.classifier.training.weights import load_all, read_state_dict
from litmeter.errors import ModelError
from litmeter.paths import CHECKPOINT, MODEL, TRAIN_METRICS
from litmeter.say.progress import bar
from litmeter.settings import read_only
from litmeter.system.files import atomic_write, read_json, write_json

BATCH_SIZE = 8


def main() -> ModelCard:
    """Write weights, card and reference answers; check that the outputs equal those of the checkpoint."""
    keep_freed_memory()
    settings = read_only(ModelParams).model
    index = read_index(settings.classes)
    classes = index.classes
    model = build_model(settings.kind, settings.architecture, len(classes), settings.side)
    load_all(model, read_state_dict(CHECKPOINT), str(CHECKPOINT))
    tested = read_json(TRAIN_METRICS)
    # Copied, as safetensors refuses tensors that share memory.
    weights = {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_write(path := MODEL.exported / WEIGHTS_NAME) as temporary:
        temporary.write_bytes(save(weights))
    card = ModelCard(
        architecture=settings.architecture,
        kind=settings.kind,
        code_sha256=sha256(*files_of_factory(settings.factory)) if settings.factory else None,
        classes=classes,
        image_size=settings.side,
        **input_config(model, settings),
        test_accuracy=tested["test_accuracy"],
        test_images=tested["test_images"],
        weights_sha256=sha256(path),
    )
    write_json(MODEL.exported / CARD_NAME, card.model_dump(mode="json", exclude_defaults=True))
    check_equal(model.eval(), card)
    write_reference(MODEL.exported, reference_answers(index))
    return card


def check_equal(model: torch.nn.Module, card: ModelCard) -> None:
    """Raise ModelError unless the exported model's outputs equal those of ``model``, bit for bit."""
    exported = load_model(MODEL.exported, card, torch.device("cpu"), torch.float32)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, card.image_size, card.image_size, generator=generator)
    with torch.inference_mode():
        if not torch.equal(exported(images), model(images)):
            raise ModelError("the exported model answers otherwise than its checkpoint")


def reference_answers(index: Index) -> Reference:
    """The exported model's probabilities for every photo, in full precision on the CPU."""
    predictor = Predictor(MODEL, "cpu", InferenceSettings())
    answers: list[list[float]] = []
    with bar(len(index.photos), "reference answers", "photo") as progress:
        for first in range(0, len(index.photos), BATCH_SIZE):
            photos = index.photos[first : first + BATCH_SIZE]
            images = [predictor.preprocess(Path(photo.path).read_bytes()) for photo in photos]
            answers += predictor.predict(images).tolist()
            progress.update(len(photos))
    return Reference(
        index.classes,
        [photo.label for photo in index.photos],
        [photo.split for photo in index.photos],
        np.array(answers),
    )
