"""The LitAPI: JSON with a base64 image in, label and probabilities out.

LitServe's stock batch loop fails a whole batch when one of its items raises. So a bad item raises
nothing: it travels through the batch as its own error response, and the others never notice.
"""

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import litserve
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from servebench.serving.image import ImageError

if TYPE_CHECKING:
    from servebench.serving.classifier import Classifier

Answer = dict[str, Any]
Decoded = Any
"""A preprocessed image (a tensor), or the JSONResponse that says why there is none."""


class PredictRequest(BaseModel):
    """The body of ``POST /predict``."""

    image: str = Field(description="an image file (JPEG, PNG, WebP, …), base64")


class ClassifierAPI(litserve.LitAPI):
    """Decodes, classifies and answers, in LitServe's own loops."""

    def __init__(self, folder: Path, precision: str, **options: Any) -> None:
        super().__init__(**options)
        self.folder = folder
        self.precision = precision
        self.classifier: Classifier | None = None

    def setup(self, device: str) -> None:
        """Load the model, once per worker: torch stays out of the HTTP process."""
        from servebench.serving.classifier import Classifier

        self.classifier = Classifier(self.folder, device, self.precision)

    @property
    def ready(self) -> "Classifier":
        """The loaded model."""
        if self.classifier is None:
            raise RuntimeError("setup has not run")
        return self.classifier

    # LitServe finds the parameter by its name ``request``, and hands its type to FastAPI, which
    # checks and documents the body by it: so no annotations as text in this module.
    def decode_request(self, request: PredictRequest) -> Decoded:
        """Base64 text -> preprocessed image."""
        try:
            content = base64.b64decode(request.image, validate=True)
        except (binascii.Error, ValueError) as error:
            return refusal(400, f"image: not base64 ({error})")
        try:
            return self.ready.preprocess(content)
        except ImageError as error:
            return refusal(error.status, str(error))

    def batch(self, inputs: Sequence[Decoded]) -> list[Decoded]:
        """Keep the items apart: only the good ones can be stacked."""
        return list(inputs)

    def predict(self, x: Decoded | list[Decoded]) -> Answer | JSONResponse | list[Any]:
        """Answer one decoded request, or a batch of them."""
        if not isinstance(x, list):
            return self._answers([x])[0]
        return self._answers(x)

    def unbatch(self, output: list[Any]) -> list[Any]:
        """``predict`` answers a batch as a list already."""
        return output

    # Without a return type, which LitServe would hand to FastAPI as the response's model.
    def encode_response(self, output: Answer | JSONResponse):  # type: ignore[no-untyped-def]
        """The answer as FastAPI sends it; an error response passes as it is."""
        return output

    def _answers(self, items: list[Decoded]) -> list[Answer | JSONResponse]:
        images = [item for item in items if not isinstance(item, JSONResponse)]
        probabilities = iter(self.ready.predict(images).tolist() if images else [])
        return [
            item if isinstance(item, JSONResponse) else self._answer(next(probabilities)) for item in items
        ]

    def _answer(self, probabilities: list[float]) -> Answer:
        classes = self.ready.card.classes
        best = max(range(len(classes)), key=probabilities.__getitem__)
        return {
            "label": classes[best],
            "probability": probabilities[best],
            "probabilities": dict(zip(classes, probabilities, strict=True)),
        }


def refusal(status: int, reason: str) -> JSONResponse:
    """An error response in FastAPI's own form."""
    return JSONResponse({"detail": reason}, status_code=status)
