"""Admission control of ``POST /predict`` by the request's head."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from time import perf_counter

from litmeter.serving.auth import KEY_HEADER, has_key
from litmeter.serving.bodies import check_head
from litmeter.serving.direct.dispatcher import STOPPING, Dispatcher
from litmeter.serving.errors import Reply, RequestError, error_reply
from litmeter.serving.metrics import RequestTimer

FULL_REASON = "the server is full; try again later"
FULL = error_reply(503, FULL_REASON)
UNAUTHORISED = error_reply(401, f"{KEY_HEADER}: missing or wrong")

REFUSED_STATUS = "litmeter.refused_status"
"""Key of an ASGI scope with the status that the protocol has answered, as the body did not arrive."""

Headers = Iterable[tuple[bytes, bytes]]
"""Pairs of a name in lower case and a value."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """An admitted request, whose body is to be read and submitted to the dispatcher.

    Attributes:
        slot: the slot it holds; the caller releases it once.
        is_image: whether the body is an image file; otherwise it is JSON.
    """

    slot: int
    is_image: bool


class Admission:
    """Admits or refuses requests, and times them.

    Args:
        max_bytes: maximum size of a body; one with a larger Content-Length is refused unread.
        key: API key that requests must send, None if they need none.
        timed: whether requests are counted in the metrics.
    """

    def __init__(self, dispatcher: Dispatcher, max_bytes: int, key: str | None, timed: bool) -> None:
        self.dispatcher = dispatcher
        self.max_bytes = max_bytes
        self._key = key
        self._timed = timed

    def decide(self, headers: Headers) -> Admitted | Reply:
        """Admit a request, or return its refusal.

        A full server makes no further checks, so that refusing costs little CPU time under overload.
        """
        if self.dispatcher.stopping:
            return STOPPING
        if self.dispatcher.full:
            return FULL
        if self._key is not None and not has_key(headers, self._key):
            return UNAUTHORISED
        try:
            is_image, body_bytes = check_head(dict(headers), self.max_bytes)
        except RequestError as error:
            return error_reply(error.status, str(error))
        slot = self.dispatcher.acquire() if self.dispatcher.has_room(body_bytes) else None
        return FULL if slot is None else Admitted(slot, is_image)

    def response_headers(self, status: int, *, close: bool) -> list[tuple[bytes, bytes]]:
        """Headers of an answer: content type, Retry-After with 503, and Connection where it is closed.

        Args:
            close: whether the connection is closed after the answer; while the server drains, all are.
        """
        headers = [(b"content-type", b"application/json")]
        if status == 503:
            headers.append((b"retry-after", b"1"))
        if close or self.dispatcher.stopping:
            headers.append((b"connection", b"close"))
        return headers

    def begin(self) -> float:
        """Count the start of a request; return its time (monotonic clock, seconds)."""
        if self._timed:
            RequestTimer.begin()
        return perf_counter()

    def end(self, status: int, began: float) -> None:
        """Count the end of the request that began at ``began``."""
        if self._timed:
            RequestTimer.end(status, began)
