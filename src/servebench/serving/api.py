"""The LitAPI: takes an image, answers the label and the probabilities.

LitServe's batch loop fails a whole batch when one of its items raises. So an invalid item does not raise:
it passes through the batch as its error response.
"""

import base64
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import litserve
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, PrivateAttr, ValidationError

from servebench.inference.image import ImageError
from servebench.inference.null import NullPredictor
from servebench.params import ServeSettings
from servebench.paths import ModelFolders
from servebench.serving.bodies import EMPTY_BODY, TOO_MANY_PARTS, has_many_parts
from servebench.serving.errors import error_response, validation_error_response
from servebench.serving.metrics import BATCH_SIZE, PROCESS, observe_stage

if TYPE_CHECKING:
    from servebench.inference.predictor import Predictor

logger = logging.getLogger(__name__)

Prediction = dict[str, Any]
"""Label, probability, and the probabilities of all classes."""

OUT_OF_MEMORY = "no memory left for this request; try again later"


class PredictRequest(BaseModel):
    """The body of ``POST /predict``."""

    image: str = Field(description="an image file (JPEG, PNG, WebP or GIF), base64")
    # All processes of a machine read the same monotonic clock.
    _received: float = PrivateAttr(default_factory=perf_counter)


@dataclass(slots=True)
class Item:
    """A decoded request.

    Attributes:
        image: the preprocessed image (tensor, channels x height x width), or the error response.
        decoded: when decoding ended (monotonic clock, seconds).
    """

    image: Any
    decoded: float


@dataclass(slots=True)
class Output:
    """The result for an item.

    Attributes:
        content: the prediction, or the error response.
        predicted: when the model had run (monotonic clock, seconds).
    """

    content: Prediction | JSONResponse
    predicted: float


class ClassifierAPI(litserve.LitAPI):
    """Decodes, classifies and answers, in LitServe's worker loop or in that of the direct transport.

    Args:
        null_model: serve the null model, which does no work, instead.
        timed: whether the metrics of the stages are collected.
        options: passed on to LitAPI.
    """

    def __init__(
        self,
        folders: ModelFolders,
        settings: ServeSettings,
        *,
        null_model: bool = False,
        timed: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(
            max_batch_size=settings.max_batch_size, batch_timeout=settings.batch_timeout_s, **options
        )
        self.folders = folders
        self.settings = settings
        self.null_model = null_model
        self.timed = timed
        self.predictor: Predictor | NullPredictor | None = None

    def setup(self, device: str) -> None:
        """Load the model; called once in each worker, so that the HTTP process does not import torch."""
        PROCESS.labels("worker").set(1)
        if self.null_model:
            self.predictor = NullPredictor(self.folders.exported)
            return
        from servebench.inference.predictor import Predictor

        self.predictor = Predictor(self.folders, device, self.settings)

    def authorize(self) -> None:
        """Disable LitServe's check of the API key, as ``ApiKey`` has made it already."""

    @property
    def loaded(self) -> "Predictor | NullPredictor":
        """The predictor.

        Raises:
            RuntimeError: ``setup`` has not run.
        """
        if self.predictor is None:
            raise RuntimeError("setup has not run")
        return self.predictor

    # LitServe passes the annotation of the parameter named ``request`` to FastAPI, which validates and
    # documents the body by it. So this module must not import annotations from __future__.
    def decode_request(self, request: PredictRequest) -> Item:
        """Decode and preprocess the image of a JSON body, in LitServe's loop."""
        return self._decode_safely(self._decode, request.image, request._received)

    def decode_body(self, is_image: bool, body: bytes, received: float) -> Item:
        """Decode and preprocess the image of an unparsed body, in the direct transport's loop.

        Args:
            is_image: whether the body is an image file; otherwise it is JSON.
            received: when it was received (monotonic clock, seconds).
        """
        return self._decode_safely(self._decode_body, is_image, body, received)

    def _decode_safely(self, decode: Callable[..., Item], *arguments: Any) -> Item:
        """Call ``decode``; turn an unexpected exception into an error response, so that the batch goes on."""
        try:
            return decode(*arguments)
        except MemoryError:
            return Item(error_response(503, OUT_OF_MEMORY), perf_counter())
        except Exception:
            logger.exception("a request could not be decoded")
            return Item(error_response(500, "Internal server error"), perf_counter())

    def _decode_body(self, is_image: bool, body: bytes, received: float) -> Item:
        if not body:
            empty = (
                error_response(400, EMPTY_BODY) if is_image else error_response(422, "body: Field required")
            )
            return Item(empty, perf_counter())
        if is_image:
            return self._decode(body, received)
        if has_many_parts(body):
            return Item(error_response(422, TOO_MANY_PARTS), perf_counter())
        try:
            text = PredictRequest.model_validate_json(body).image
        except ValidationError as error:
            return Item(validation_error_response(error.errors(include_url=False)[0]), perf_counter())
        return self._decode(text, received)

    def _decode(self, content: bytes | str, received: float) -> Item:
        """Decode and preprocess an image file, given as bytes or as base64 text."""
        started = perf_counter()
        self._time("queue", started - received)
        try:
            pixels: Any = self.loaded.decode(
                content if isinstance(content, bytes) else decode_base64(content)
            )
            decoded = perf_counter()
            image = self.loaded.transform(pixels)
        except ImageError as error:
            return Item(error_response(error.status, str(error)), perf_counter())
        ended = perf_counter()
        self._time("decode", decoded - started)
        self._time("preprocess", ended - decoded)
        return Item(image, ended)

    def batch(self, inputs: Sequence[Item]) -> list[Item]:
        """Return the items unstacked, as some may be error responses."""
        return list(inputs)

    def predict(self, x: Item | list[Item]) -> Output | list[Output]:
        """The output of one item, or the list of outputs of a batch."""
        return self.predict_batch(x) if isinstance(x, list) else self.predict_batch([x])[0]

    # No return type: LitServe would pass it to FastAPI as the response model.
    def encode_response(self, output: Output | JSONResponse):  # type: ignore[no-untyped-def]
        """The content of the answer; an error response is returned unchanged."""
        if isinstance(output, JSONResponse):
            return output
        self._time("encode", perf_counter() - output.predicted)
        return output.content

    def _time(self, stage: str, seconds: float) -> None:
        if self.timed:
            observe_stage(stage, seconds)

    def predict_batch(self, items: Sequence[Item]) -> list[Output]:
        """The outputs of a batch, one for each item, in the same order."""
        started = perf_counter()
        images = [item.image for item in items if not isinstance(item.image, JSONResponse)]
        contents = iter(self._predict(images) if images else [])
        predicted = perf_counter()
        outputs = [
            Output(item.image if isinstance(item.image, JSONResponse) else next(contents), predicted)
            for item in items
        ]
        if self.timed:
            BATCH_SIZE.observe(len(items))
            for item in items:
                observe_stage("batch_wait", started - item.decoded)
                observe_stage("model", predicted - started)
        return outputs

    def _predict(self, images: Sequence[Any]) -> list[Prediction | JSONResponse]:
        """Run the model on preprocessed images; on a lack of memory, run each half of the batch."""
        try:
            return [self._prediction(probabilities) for probabilities in self.loaded.predict(images).tolist()]
        except MemoryError as error:
            logger.warning("no memory for a batch of %d: %s", len(images), error)
        if len(images) == 1:
            return [error_response(503, OUT_OF_MEMORY)]
        half = len(images) // 2
        return self._predict(images[:half]) + self._predict(images[half:])

    def _prediction(self, probabilities: list[float]) -> Prediction:
        classes = self.loaded.card.classes
        best = max(range(len(classes)), key=probabilities.__getitem__)
        return {
            "label": classes[best],
            "probability": probabilities[best],
            "probabilities": dict(zip(classes, probabilities, strict=True)),
        }


def decode_base64(text: str) -> bytes:
    """The image file of a JSON body.

    Raises:
        ImageError: status 400: ``text`` is not plain base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:  # includes binascii.Error
        if text.startswith("data:"):
            raise ImageError(400, "image: a data URL; send what follows 'base64,' alone") from error
        raise ImageError(400, f"image: not base64 ({error})") from error
