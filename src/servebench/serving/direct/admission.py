"""What becomes of a ``POST /predict`` when its head has come, for the route and the fast path alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from time import perf_counter

from servebench.serving.auth import KEY_HEADER, has_key
from servebench.serving.bodies import check_head
from servebench.serving.direct.dispatcher import STOPPING, Dispatcher
from servebench.serving.errors import Reply, RequestError, reply
from servebench.serving.metrics import RequestTimer

FULL = reply(503, "the server is full; try again later")
UNAUTHORISED = reply(401, f"{KEY_HEADER}: missing or wrong")

Headers = Iterable[tuple[bytes, bytes]]
"""Names in lower case, and values."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request whose body is to be read, and then to be handed to the workers.

    Attributes:
        slot: its place among the requests in flight; to be released once.
        is_image: the body is an image file; else it is JSON.
    """

    slot: int
    is_image: bool


class Admission:
    """Decides on every request, and times it.

    Args:
        max_bytes: of a body; a larger one is refused, unread where its length is announced.
        key: what requests must bring, if anything.
        timed: count requests in the metrics.
    """

    def __init__(self, dispatcher: Dispatcher, max_bytes: int, key: str | None, timed: bool) -> None:
        self.dispatcher = dispatcher
        self.max_bytes = max_bytes
        self._key = key
        self._timed = timed

    def decide(self, headers: Headers) -> Admitted | Reply:
        """A slot, or the refusal; a full server looks at nothing else, so that refusing costs little."""
        if self.dispatcher.stopping:
            return STOPPING
        if self.dispatcher.full:
            return FULL
        if self._key is not None and not has_key(headers, self._key):
            return UNAUTHORISED
        try:
            is_image = check_head(dict(headers), self.max_bytes)
        except RequestError as error:
            return reply(error.status, str(error))
        slot = self.dispatcher.acquire()
        return FULL if slot is None else Admitted(slot, is_image)

    def response_headers(self, status: int, *, close: bool) -> list[tuple[bytes, bytes]]:
        """What a client is told beside the answer: when to come back, and that the connection ends.

        Args:
            close: the connection cannot be used again; where the server stops, none can.
        """
        headers = [(b"content-type", b"application/json")]
        if status == 503:
            headers.append((b"retry-after", b"1"))
        if close or self.dispatcher.stopping:
            headers.append((b"connection", b"close"))
        return headers

    def begin(self) -> float:
        """A request has come; when, seconds of the monotonic clock."""
        if self._timed:
            RequestTimer.begin()
        return perf_counter()

    def end(self, status: int, began: float) -> None:
        """Its answer has gone."""
        if self._timed:
            RequestTimer.end(status, began)
