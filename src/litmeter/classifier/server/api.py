"""The classifier as a LitAPI, for LitServe's worker loops and its OpenAPI document.

LitServe's batch loop fails the whole batch when an item raises, so an invalid item does not raise: its
refusal passes through the batch in its place. LitServe's route takes JSON alone, so images are converted.
"""

import base64
from collections.abc import Sequence

import litserve
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from litmeter.classifier.server.responder import (
    EMPTY_BODY,
    ClassifierResponder,
    Item,
    Output,
    PredictRequest,
    is_image,
    max_body_bytes,
)
from litmeter.direct.forkserver import FORKS, become_litserve_worker
from litmeter.direct.litserve_internals import configure
from litmeter.direct.messages import Reply, RequestError, error_reply
from litmeter.direct.middleware import check_length, read_body, response_of


class ClassifierAPI(litserve.LitAPI):
    """Decodes, classifies and answers in LitServe's worker loop."""

    def __init__(self, classifier: ClassifierResponder) -> None:
        settings = classifier.settings
        super().__init__()
        configure(self, settings.max_batch_size, settings.batch_timeout_s)
        self.classifier = classifier

    def setup(self, device: str) -> None:
        """Load the model; LitServe calls this in a worker."""
        if FORKS:
            become_litserve_worker()
        self.classifier.setup(device)

    def authorize(self) -> None:
        """Disable LitServe's check of the API key: the middleware ``ApiKey`` has checked it."""

    # FastAPI validates and documents the body by the annotation of ``request``, which LitServe passes on. So
    # this module must not import annotations from __future__.
    def decode_request(self, request: PredictRequest) -> Item:
        """Decode and preprocess the image of a JSON body."""
        return self.classifier.decode_json(request)

    def batch(self, inputs: Sequence[Item]) -> list[Item]:
        """The items, not stacked: some may be refusals."""
        return list(inputs)

    def predict(self, x: Item | list[Item]) -> Output | list[Output]:
        """The output of one item, or the list of outputs of a batch."""
        predict = self.classifier.predict_batch
        return predict(x) if isinstance(x, list) else predict([x])[0]

    # No return type: LitServe would pass it to FastAPI as the response model.
    def encode_response(self, output: Output):  # type: ignore[no-untyped-def]
        """The prediction, or the refusal as a response."""
        finished = self.classifier.finished(output)
        return response_of(finished) if isinstance(finished, Reply) else finished


class ImageBodies:
    """ASGI middleware that converts an image file to the JSON body of LitServe's route."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http" or scope["path"] != "/predict" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        try:
            given = dict(scope["headers"])
            content_type = given.get(b"content-type", b"")
            max_bytes = max_body_bytes(content_type)
            check_length(given, max_bytes)
            if not is_image(content_type):
                await self.app(scope, receive, send)
                return
            body = await read_body(receive, max_bytes)
            if not body:
                raise RequestError(error_reply(400, EMPTY_BODY))
            text = base64.b64encode(body)
        except RequestError as error:
            await response_of(error.reply)(scope, receive, send)
            return
        headers = [pair for pair in scope["headers"] if pair[0] not in (b"content-type", b"content-length")]
        headers.append((b"content-type", b"application/json"))
        messages = [{"type": "http.request", "body": b'{"image":"' + text + b'"}', "more_body": False}]

        async def receive_json() -> Message:
            return messages.pop() if messages else await receive()

        await self.app({**scope, "headers": headers}, receive_json, send)
