"""The classifier in a worker: decodes requests, runs the model on batches, and makes the answers.

The refusal of an invalid request passes through the batch in its place, so that the other requests go on.
Workers of the direct transport need neither LitServe nor FastAPI, so this module does not import them.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, PrivateAttr, ValidationError

from litmeter.classifier.model.card import read_card
from litmeter.classifier.model.image import ImageError
from litmeter.classifier.server.settings import ServerSettings
from litmeter.direct.messages import Reply, Request, RequestError, error_reply, invalid_body_reply, too_large
from litmeter.direct.metrics import BATCH_SIZE, PROCESS, SECONDS_OF
from litmeter.paths import ModelFolders
from litmeter.system.device import end_if_sticky
from litmeter.system.imports import freeze_gc_after

if TYPE_CHECKING:
    from litmeter.classifier.model.predictor import Predictor

logger = logging.getLogger(__name__)

ENCODER = json.JSONEncoder(separators=(",", ":"))

Prediction = dict[str, Any]
"""The label, its probability, and the probabilities of all classes."""
Output = Prediction | Reply
"""Of a request: its prediction, or its refusal."""

MAX_IMAGE_BYTES = 20_000_000
"""Of an image file, in a body or in JSON, by either transport."""
MAX_JSON_BYTES = 27_000_000
"""Of a JSON body: the largest image in base64, and some other keys."""
MAX_JSON_PARTS = 1000
EMPTY_BODY = "image: the body is empty"
OUT_OF_MEMORY = error_reply(503, "no memory left for this request; try again later")
INTERNAL_ERROR = error_reply(500, "Internal server error")


class PredictRequest(BaseModel):
    """The body of ``POST /predict``."""

    image: str = Field(description="an image file (JPEG, PNG, WebP or GIF), base64")
    # All processes of a machine read the same monotonic clock.
    _received: float = PrivateAttr(default_factory=perf_counter)


@dataclass(slots=True)
class Item:
    """A decoded request."""

    image: Any  # the preprocessed image, or the refusal (Reply)
    decoded: float  # end of decoding, seconds of the monotonic clock


class NullPredictor:
    """The null model: a ``Predictor`` that computes nothing, so that a request costs the server's share."""

    def __init__(self, folder: Path) -> None:
        self.card = read_card(folder)

    def decode(self, content: bytes) -> bytes:
        """``content``, unchanged, as by ``transform``."""
        return content

    transform = decode

    def predict(self, images: Sequence[bytes]) -> npt.NDArray[np.float64]:
        """The same probability for every class, (N, classes)."""
        return np.full((len(images), classes := len(self.card.classes)), 1 / classes)


class ClassifierResponder:
    """Classifies requests by the exported model, or by the null model, which does no work."""

    predictor: Predictor | NullPredictor
    """In a worker, once ``setup`` has run."""

    def __init__(self, folders: ModelFolders, settings: ServerSettings, *, null_model: bool = False) -> None:
        self.folders = folders
        self.settings = settings
        self.null_model = null_model
        self._predicted = 0.0  # end of the model's last run, seconds of the monotonic clock

    def setup(self, device: str) -> None:
        """Load the model; each worker calls this, and the HTTP process does not import torch."""
        PROCESS.labels("worker").set(1)
        if self.null_model:
            self.predictor = NullPredictor(self.folders.exported)
            return
        with freeze_gc_after():
            from litmeter.classifier.model.predictor import Predictor

            self.predictor = Predictor(self.folders, device, self.settings, self.settings.threads_per_worker)
        if device != "cpu":  # the first batch is slow, and shows how much memory a worker needs
            self.predictor.warm_up(self.settings.max_batch_size)

    def decode_json(self, request: PredictRequest) -> Item:
        """Decode and preprocess the image of a validated JSON body."""
        return self._item(self._decode, request.image, request._received)

    def answer(self, batch: Iterable[Request]) -> dict[int, Reply]:
        """The replies to a batch of the direct transport, by slot; an invalid request gets its refusal."""
        items = {request.slot: self._item(self._decode_body, request) for request in batch}
        if not items:
            return {}
        try:
            outputs = self.predict_batch([*items.values()])
        except Exception:
            logger.exception("the model failed on a batch of %d", len(items))
            outputs = [INTERNAL_ERROR] * len(items)
        return {
            slot: output if isinstance(output, Reply) else Reply(200, ENCODER.encode(output).encode())
            for slot, output in zip(items, map(self.finished, outputs), strict=True)
        }

    def predict_batch(self, items: Sequence[Item]) -> list[Output]:
        """The outputs of a batch, in the order of its items."""
        started = perf_counter()
        images = [item.image for item in items if not isinstance(item.image, Reply)]
        try:
            predicted = iter(self._predict(images) if images else [])
        except Exception as error:
            end_if_sticky(error)
            raise
        finally:
            self._predicted = perf_counter()
        BATCH_SIZE.observe(len(items))
        for item in items:
            SECONDS_OF["batch_wait"].observe(started - item.decoded)
            SECONDS_OF["model"].observe(self._predicted - started)
        return [item.image if isinstance(item.image, Reply) else next(predicted) for item in items]

    def finished(self, output: Output) -> Output:
        """The output; the time since the model's run counts as encoding."""
        SECONDS_OF["encode"].observe(perf_counter() - self._predicted)
        return output

    def _item(self, decode: Callable[..., Any], *arguments: Any) -> Item:
        """Call ``decode``; turn any exception into a refusal, so that the batch goes on."""
        try:
            image = decode(*arguments)
        except RequestError as error:
            image = error.reply
        except ImageError as error:
            image = error_reply(error.status, str(error))
        except MemoryError:
            image = OUT_OF_MEMORY
        except Exception:
            logger.exception("a request could not be decoded")
            image = INTERNAL_ERROR
        return Item(image, perf_counter())

    def _decode_body(self, request: Request) -> Any:
        body = request.body
        if is_image(request.content_type):
            if not body:
                raise RequestError(error_reply(400, EMPTY_BODY))
            return self._decode(body, request.received)
        if not body:
            raise RequestError(error_reply(422, "body: Field required"))
        # Millions of keys take a second to parse. Base64 contains no comma, and the parser gives up on deeply
        # nested brackets.
        if body.count(b",") > MAX_JSON_PARTS:
            raise RequestError(error_reply(422, "body: more keys and values than an image needs"))
        try:
            text = PredictRequest.model_validate_json(body).image
        except ValidationError as error:
            return invalid_body_reply(error.errors(include_url=False)[0])
        return self._decode(text, request.received)

    def _decode(self, content: bytes | str, received: float) -> Any:
        """Decode and preprocess an image file, in bytes or as base64 text."""
        started = perf_counter()
        SECONDS_OF["queue"].observe(started - received)
        file = content if isinstance(content, bytes) else decode_base64(content)
        if len(file) > MAX_IMAGE_BYTES:
            raise ImageError(413, f"image: {too_large(MAX_IMAGE_BYTES)}")
        pixels: Any = self.predictor.decode(file)
        decoded = perf_counter()
        image = self.predictor.transform(pixels)
        preprocessed = perf_counter()
        SECONDS_OF["decode"].observe(decoded - started)
        SECONDS_OF["preprocess"].observe(preprocessed - decoded)
        return image

    def _predict(self, images: Sequence[Any]) -> list[Output]:
        """Run the model on preprocessed images; without enough memory, on each half of them."""
        try:
            return [self._prediction(row) for row in self.predictor.predict(images).tolist()]
        except MemoryError as error:
            logger.warning("no memory for a batch of %d: %s", len(images), error)
        if len(images) == 1:
            return [OUT_OF_MEMORY]
        half = len(images) // 2
        return self._predict(images[:half]) + self._predict(images[half:])

    def _prediction(self, probabilities: list[float]) -> Prediction:
        classes = self.predictor.card.classes
        best = max(range(len(classes)), key=probabilities.__getitem__)
        return {
            "label": classes[best],
            "probability": probabilities[best],
            "probabilities": dict(zip(classes, probabilities, strict=True)),
        }


def is_image(content_type: bytes) -> bool:
    """Whether the body is an image file, not JSON; raise RequestError, 415, for other content types."""
    kind = content_type.partition(b";")[0].strip().lower()
    if kind.startswith(b"image/"):
        return True
    if kind == b"application/json":
        return False
    reason = (
        "Content-Type: neither application/json nor image/*; send an image file as it is, not as a form: "
        "curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg'"
    )
    raise RequestError(error_reply(415, reason))


def max_body_bytes(content_type: bytes) -> int:
    """The limit of a body's bytes; raise RequestError as ``is_image``."""
    return MAX_IMAGE_BYTES if is_image(content_type) else MAX_JSON_BYTES


def decode_base64(text: str) -> bytes:
    """The image file of a JSON body; raise ImageError, 400, where ``text`` is not plain base64."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:  # includes binascii.Error
        if text.startswith("data:"):
            raise ImageError(400, "image: a data URL; send what follows 'base64,' alone") from error
        raise ImageError(400, f"image: not base64 ({error})") from error
