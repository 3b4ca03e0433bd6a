"""The LitAPI: an image in, label and probabilities out.

LitServe's stock batch loop fails a whole batch when one of its items raises. So a bad item raises
nothing: it travels through the batch as its own error response, and the others never notice.
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
from servebench.serving.bodies import EMPTY
from servebench.serving.errors import invalid, refusal
from servebench.serving.metrics import BATCH_SIZE, PROCESS, observe_stage

if TYPE_CHECKING:
    from servebench.inference.predictor import Predictor

logger = logging.getLogger(__name__)

Prediction = dict[str, Any]
"""Label, probability, and the probabilities of all classes."""

NO_MEMORY = "no memory left for this request; try again later"


class PredictRequest(BaseModel):
    """The body of ``POST /predict``."""

    image: str = Field(description="an image file (JPEG, PNG, WebP or GIF), base64")
    # The monotonic clock is the machine's: the worker reads the same one.
    _received: float = PrivateAttr(default_factory=perf_counter)


@dataclass(slots=True)
class Item:
    """A request on its way through a batch.

    Attributes:
        image: preprocessed (a tensor), or the response that says why there is none.
        decoded: when it was, seconds of the monotonic clock.
    """

    image: Any
    decoded: float


@dataclass(slots=True)
class Output:
    """What came of an item.

    Attributes:
        content: the prediction, or the response that says why there is none.
        predicted: when it was, seconds of the monotonic clock.
    """

    content: Prediction | JSONResponse
    predicted: float


class ClassifierAPI(litserve.LitAPI):
    """Decodes, classifies and answers, in LitServe's own loops or in ours.

    Args:
        null_model: serve a model that does nothing instead.
        timed: write the metrics of each stage.
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
        """Load the model, once per worker: torch stays out of the HTTP process."""
        PROCESS.labels("worker").set(1)
        if self.null_model:
            self.predictor = NullPredictor(self.folders.exported)
            return
        from servebench.inference.predictor import Predictor

        self.predictor = Predictor(self.folders, device, self.settings)

    def authorize(self) -> None:
        """Stands in for LitServe's own look at the API key: ``ApiKey`` has looked already."""

    @property
    def ready(self) -> "Predictor | NullPredictor":
        """The loaded model."""
        if self.predictor is None:
            raise RuntimeError("setup has not run")
        return self.predictor

    # LitServe finds the parameter by its name ``request``, and hands its type to FastAPI, which
    # checks and documents the body by it: so no annotations as text in this module.
    def decode_request(self, request: PredictRequest) -> Item:
        """Base64 text -> preprocessed image."""
        return self._item(self._decode, request.image, request._received)

    def decode_body(self, is_image: bool, body: bytes, received: float) -> Item:
        """The same for a body that the HTTP process has not looked at.

        Args:
            is_image: it is an image file; else JSON.
            received: when, seconds of the monotonic clock.
        """
        return self._item(self._decode_body, is_image, body, received)

    def _item(self, decode: Callable[..., Item], *arguments: Any) -> Item:
        """A request that nobody foresaw is refused; the worker and the rest of the batch go on."""
        try:
            return decode(*arguments)
        except MemoryError:
            return Item(refusal(503, NO_MEMORY), perf_counter())
        except Exception:
            logger.exception("a request could not be decoded")
            return Item(refusal(500, "Internal server error"), perf_counter())

    def _decode_body(self, is_image: bool, body: bytes, received: float) -> Item:
        if not body:
            empty = refusal(400, EMPTY) if is_image else refusal(422, "body: Field required")
            return Item(empty, perf_counter())
        if is_image:
            return self._decode(body, received)
        try:
            text = PredictRequest.model_validate_json(body).image
        except ValidationError as error:
            return Item(invalid(error.errors(include_url=False)[0]), perf_counter())
        return self._decode(text, received)

    def _decode(self, content: bytes | str, received: float) -> Item:
        """An image file, as it is or as base64 text, -> preprocessed image."""
        started = perf_counter()
        self._time("queue", started - received)
        try:
            pixels: Any = self.ready.decode(content if isinstance(content, bytes) else from_base64(content))
            decoded = perf_counter()
            image = self.ready.transform(pixels)
        except ImageError as error:
            return Item(refusal(error.status, str(error)), perf_counter())
        ended = perf_counter()
        self._time("decode", decoded - started)
        self._time("preprocess", ended - decoded)
        return Item(image, ended)

    def batch(self, inputs: Sequence[Item]) -> list[Item]:
        """Keep the items apart: only the good ones can be stacked."""
        return list(inputs)

    def predict(self, x: Item | list[Item]) -> Output | list[Output]:
        """The output for one decoded request, or the list of those for a batch."""
        return self.predict_batch(x) if isinstance(x, list) else self.predict_batch([x])[0]

    # Without a return type, which LitServe would hand to FastAPI as the response's model.
    def encode_response(self, output: Output | JSONResponse):  # type: ignore[no-untyped-def]
        """The answer as FastAPI sends it; an error response passes as it is."""
        if isinstance(output, JSONResponse):
            return output
        self._time("encode", perf_counter() - output.predicted)
        return output.content

    def _time(self, stage: str, seconds: float) -> None:
        if self.timed:
            observe_stage(stage, seconds)

    def predict_batch(self, items: Sequence[Item]) -> list[Output]:
        """The outputs for a batch of decoded requests, each by itself."""
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
        """Classify preprocessed images, in halves where there is no memory for all of them at once."""
        try:
            return [self._prediction(probabilities) for probabilities in self.ready.predict(images).tolist()]
        except MemoryError as error:
            logger.warning("no memory for a batch of %d: %s", len(images), error)
        if len(images) == 1:
            return [refusal(503, NO_MEMORY)]
        half = len(images) // 2
        return self._predict(images[:half]) + self._predict(images[half:])

    def _prediction(self, probabilities: list[float]) -> Prediction:
        classes = self.ready.card.classes
        best = max(range(len(classes)), key=probabilities.__getitem__)
        return {
            "label": classes[best],
            "probability": probabilities[best],
            "probabilities": dict(zip(classes, probabilities, strict=True)),
        }


def from_base64(text: str) -> bytes:
    """The image file in a JSON body.

    Raises:
        ImageError: 400 where ``text`` is not base64, and nothing else.
    """
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:  # of which binascii.Error is one
        if text.startswith("data:"):
            raise ImageError(400, "image: a data URL; send what follows 'base64,' alone") from error
        raise ImageError(400, f"image: not base64 ({error})") from error
