"""The channel between the HTTP process and the workers: sockets, shared memory and message format."""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from litmeter.serving.direct.messages import receive, send, socket_pair
from litmeter.serving.direct.slots import Slots
from litmeter.serving.forkserver import WORKERS

REQUEST = struct.Struct("<QB7xd")
"""Header of a request: slot, whether the body is an image file, time of arrival (monotonic, seconds)."""
RESPONSE = struct.Struct("<QII")
"""Header of a response: slot, HTTP status, length of the body in bytes."""
REGISTRATION = 0
"""Slot of a worker's first message, which has the process id in place of the HTTP status."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the worker receives it.

    Attributes:
        is_image: whether the body is an image file; otherwise it is JSON.
        received: when the HTTP process had read the whole body (monotonic clock, seconds).
    """

    slot: int
    is_image: bool
    received: float
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """A response as the HTTP process receives it; the body is JSON."""

    slot: int
    status: int
    body: bytes


class Channel:
    """A socket pair for requests, from which all workers read, one for responses, and the slots.

    It is created before the processes that share it start.

    Args:
        capacity: maximum number of requests in flight.
        workers: number of workers.
    """

    def __init__(self, capacity: int, workers: int) -> None:
        self.slots = Slots(capacity, workers)
        self._idle = WORKERS.RawArray("B", workers)
        self.request_sender, self._request_receiver = socket_pair()
        self._response_sender, self.response_receiver = socket_pair()
        self._epoll: select.epoll | None = None

    def send_request(self, request: Request) -> None:
        """Send a request to the workers, without blocking.

        Raises:
            BlockingIOError: the socket's buffer is full.
            OSError: there is no descriptor or memory for a large body.
        """
        head = REQUEST.pack(request.slot, request.is_image, request.received)
        send(self.request_sender, (head, request.body), socket.MSG_DONTWAIT)

    def receive_request(self) -> Request | None:
        """Receive the next request, None if there is none; called by workers."""
        try:
            message = receive(self._request_receiver, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        slot, is_image, received = REQUEST.unpack_from(message)
        return Request(slot, bool(is_image), received, message[REQUEST.size :])

    def wait_for_request(self, worker: int) -> Request:
        """Block until there is a request for the worker of index ``worker``; return it.

        The kernel wakes workers that block in recvmsg in turn. With EPOLLEXCLUSIVE it wakes the first idle
        one, always in the same order: under low load one worker gets every request, and its weights stay
        in the caches of its core (epoll_ctl(2)).
        """
        if self._epoll is None:
            self._epoll = select.epoll()
            self._epoll.register(self._request_receiver, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        while (request := self.receive_request()) is None:
            self._idle[worker] = True
            self._epoll.poll()
            self._idle[worker] = False
        return request

    def on_worker_exit(self, worker: int) -> None:
        """Mark the worker of index ``worker`` as busy, so that the others do not leave requests to it."""
        self._idle[worker] = False

    def has_idle_worker(self) -> bool:
        """Whether another worker than the caller is idle."""
        return any(self._idle)

    def requests_fd(self) -> int:
        """File descriptor that is readable when there is a request."""
        return self._request_receiver.fileno()

    def send_registration(self) -> None:
        """Send this worker's process id to the HTTP process, which then watches for its exit."""
        send(self._response_sender, (RESPONSE.pack(REGISTRATION, os.getpid(), 0),))

    def send_responses(self, responses: Sequence[Response]) -> None:
        """Send the responses of a batch as one message; block while the socket's buffer is full."""
        parts: list[bytes] = []
        for response in responses:
            parts += (RESPONSE.pack(response.slot, response.status, len(response.body)), response.body)
        send(self._response_sender, (b"".join(parts),))

    def receive_responses(self) -> list[Response]:
        """Receive the responses of the next message, without blocking.

        Raises:
            BlockingIOError: there is no message.
        """
        message = receive(self.response_receiver, socket.MSG_DONTWAIT)
        responses, offset = [], 0
        while offset < len(message):
            slot, status, length = RESPONSE.unpack_from(message, offset)
            offset += RESPONSE.size
            responses.append(Response(slot, status, message[offset : offset + length]))
            offset += length
        return responses
