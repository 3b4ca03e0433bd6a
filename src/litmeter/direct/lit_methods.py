"""A LitAPI without LitServe's processes: its methods, called as LitServe's loops do, and its route."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import pickle
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from fastapi import Request, params
from fastapi.exception_handlers import request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from litserve import LitAPI
from litserve.utils import LitAPIStatus
from starlette.types import Receive

from litmeter.direct.litserve_internals import Queues, Server, spec_of
from litmeter.direct.messages import Reply, RequestError, error_reply

logger = logging.getLogger(__name__)

ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
"""Encodes as ``starlette.responses.JSONResponse`` does."""
Outcome = tuple[Any, str]
"""The result of ``encode_response`` and ``LitAPIStatus.OK``, or an exception and ``ERROR``."""
FORMS = (b"application/x-www-form-urlencoded", b"multipart/form-data")
UNREADABLE = 422
"""Status of an unreadable request."""


class LengthError(Exception):
    """A batch has more or fewer outputs than inputs."""


class Methods:
    """The methods of a LitAPI after ``setup``; a method with a parameter ``context`` gets it, as in LitServe.

    Args:
        device: cpu or cuda:0, LitServe's names.

    Attributes:
        batched: ``predict`` takes batches, even of one item, rather than single items.
        streams: ``predict`` and ``encode_response`` are generators.
    """

    def __init__(self, api: LitAPI, device: str) -> None:
        self.api, self.batched, self.streams = api, api.max_batch_size > 1, bool(api.stream)
        self._takes_context: dict[str, bool] = {}
        self.call("setup", None, device)
        api.device = device

    def call(self, name: str, context: Any, *arguments: Any) -> Any:
        """Call the method of that name."""
        method = getattr(self.api, name)
        if name not in self._takes_context:
            self._takes_context[name] = "context" in inspect.signature(method).parameters
        return method(*arguments, context=context) if self._takes_context[name] else method(*arguments)

    def ready(self, inputs: list[Any], contexts: list[Any]) -> tuple[Any, Any]:
        """Arguments of ``predict``: a batch of the inputs and all contexts, or the only input and context."""
        return (self.call("batch", contexts, inputs), contexts) if self.batched else (inputs[0], contexts[0])

    def encode(self, outputs: Any, contexts: Any) -> list[Any]:
        """The answers in the result of ``predict``; raise LengthError for too few or too many."""
        if not self.batched:
            return [self.call("encode_response", contexts, outputs)]
        outputs = self.call("unbatch", contexts, outputs)
        if len(outputs) != len(contexts):
            raise LengthError(f"{len(outputs)} outputs for {len(contexts)} inputs")
        return [self.call("encode_response", *each) for each in zip(contexts, outputs, strict=True)]

    def encode_stream(self, outputs: Any, contexts: Any) -> Iterator[list[Any]]:
        """The pieces in the stream of ``predict``, as they come: each time one for every item."""
        if self.batched:
            outputs = self.call("unbatch", contexts, outputs)
        for piece in self.call("encode_response", contexts, outputs):
            yield [self.api.format_encoded_response(one) for one in (piece if self.batched else [piece])]


class Route:
    """LitServe's route of a server's only API, without the queues and the API key.

    LitServe and FastAPI make payloads of requests, and replies of outcomes. JSON bodies and plain answers
    take a shortcut with the same parser, validator and encoder: 30 us instead of 250 us.
    """

    def __init__(self, server: Server) -> None:
        self._app, self._path = server.app, server.lit_api.api_path
        self._queues = Queues()
        server.stand_in(self._queues)
        server.app.add_exception_handler(RequestValidationError, _refuse)
        self._loop = asyncio.new_event_loop()
        route: Any = route_of(server)
        field, self._response = route.body_field, route.response_field
        self._takes_any = field is None
        is_json = [field] == route.dependant.body_params and not isinstance(field.field_info, params.Form)
        self._request = field if is_json and spec_of(server.lit_api) is None else None

    def payload(self, content_type: bytes, body: bytes) -> Any:
        """The argument of ``decode_request``; raise RequestError if the route refuses the request."""
        if self._takes_any:
            return self._unvalidated(content_type, body)
        with suppress(Exception):  # the full route below answers with the error
            if self._request and content_type.partition(b";")[0].strip().lower() == b"application/json":
                value, errors = self._request.validate(json.loads(body), {}, loc=("body",))
                if not errors:
                    return value
        self._queues.payload = self._queues.outcome = None
        reply = self._run(content_type, body)
        if self._queues.payload is None:
            raise RequestError(reply)
        return pickle.loads(self._queues.payload)  # noqa: S301 -- of this process

    def _unvalidated(self, content_type: bytes, body: bytes) -> Any:
        """The content of a form or of JSON; refuse anything else (LitServe answers 500, and logs it)."""
        try:
            if not content_type.startswith(FORMS):
                return json.loads(body)
            request = Request(*self._asgi(content_type, body))
            form = self._loop.run_until_complete(request.form())
            return pickle.loads(pickle.dumps(form))  # noqa: S301 -- as through LitServe's queue
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise RequestError(error_reply(UNREADABLE, f"body: cannot be read ({reason})")) from None

    def reply(self, content_type: bytes, body: bytes, outcome: Outcome) -> Reply:
        """The reply to a request with this outcome."""
        answer, status = outcome
        if status == LitAPIStatus.OK and not isinstance(answer, Response):
            with suppress(Exception):
                if self._response is not None:
                    value, errors = self._response.validate(answer, {}, loc=("response",))
                    if not errors:
                        return Reply(200, self._response.serialize_json(value))
                elif '"_sa' not in (text := ENCODER.encode(answer)):  # FastAPI drops keys with this prefix
                    return Reply(200, text.encode())
        self._queues.outcome = outcome
        return self._run(content_type, body)

    def _asgi(self, content_type: bytes, body: bytes) -> tuple[dict[str, Any], Receive]:
        """A request's ASGI scope and receive."""
        headers = [(b"content-length", b"%d" % len(body))]
        scope = {
            "type": "http",
            "method": "POST",
            "path": self._path,
            "query_string": b"",
            "headers": [*headers, (b"content-type", content_type)] if content_type else headers,
        }
        messages = [{"type": "http.request", "body": body}]

        async def receive() -> Any:
            return messages.pop() if messages else {"type": "http.disconnect"}

        return scope, receive

    def _run(self, content_type: bytes, body: bytes) -> Reply:
        """The reply of LitServe's app."""
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        try:
            self._loop.run_until_complete(self._app(*self._asgi(content_type, body), send))
        except Exception:
            logger.exception("a request failed")  # starlette's ServerErrorMiddleware has answered it
        own = tuple(pair for pair in sent[0]["headers"] if pair[0] != b"content-length")
        content = b"".join(message.get("body", b"") for message in sent[1:])
        return Reply(sent[0]["status"], content, own)


def route_of(server: Server) -> APIRoute:
    """The FastAPI route of a server's only API."""
    path, routes = server.lit_api.api_path, server.app.routes
    own = (one for one in routes if isinstance(one, APIRoute) and one.path == path)
    [found] = [one for one in own if "POST" in (one.methods or ())]
    return found


async def _refuse(request: Request, error: Exception) -> Response:
    """FastAPI's answer to an invalid body, which repeats the body unless that cannot be written as JSON.

    Bytes other than UTF-8, NaN, and half a surrogate pair cannot.
    """
    assert isinstance(error, RequestValidationError)
    try:
        return await request_validation_exception_handler(request, error)
    except (ValueError, RecursionError):
        detail = [{key: one[key] for key in ("type", "loc", "msg")} for one in error.errors()]
        return Response(json.dumps({"detail": detail}), UNREADABLE, media_type="application/json")
