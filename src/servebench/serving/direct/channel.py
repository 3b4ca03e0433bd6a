"""What the HTTP process and the workers share, made before either starts, and the form of the messages."""

from __future__ import annotations

import multiprocessing
import os
import select
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from servebench.serving.direct.messages import receive, send, socket_pair
from servebench.serving.direct.slots import Slots

REQUEST = struct.Struct("<QB7xd")
"""Slot, whether the body is an image file, when it was received (seconds of the machine's clock)."""
RESPONSE = struct.Struct("<QII")
"""Slot, HTTP status, length of the body."""
REGISTRATION = 0
"""The slot of a worker's first message, which has its process id in place of a status."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request as a worker gets it.

    Attributes:
        is_image: the body is an image file; else it is JSON.
        received: when the HTTP process had all of it, seconds of the machine's clock.
    """

    slot: int
    is_image: bool
    received: float
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """A response as the HTTP process gets it; the body is JSON."""

    slot: int
    status: int
    body: bytes


class Channel:
    """Two sockets and the slots: one way for requests, which all workers read, one for responses.

    Args:
        capacity: requests in flight at most.
        workers: how many there shall be.
    """

    def __init__(self, capacity: int, workers: int) -> None:
        self.slots = Slots(capacity)
        self._waiting = multiprocessing.get_context("spawn").RawArray("B", workers)
        self.requests_in, self._requests_out = socket_pair()
        self._responses_in, self.responses_out = socket_pair()
        self._sleep: select.epoll | None = None

    def send_request(self, request: Request) -> None:
        """Hand a request to the workers.

        Raises:
            BlockingIOError: the kernel holds as many as it can.
        """
        head = REQUEST.pack(request.slot, request.is_image, request.received)
        send(self.requests_in, (head, request.body), socket.MSG_DONTWAIT)

    def receive_request(self) -> Request | None:
        """The next request for a worker, None where there is none."""
        try:
            message = receive(self._requests_out, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        slot, is_image, received = REQUEST.unpack_from(message)
        return Request(slot, bool(is_image), received, message[REQUEST.size :])

    def wait_for_request(self, worker: int) -> Request:
        """The next request for the worker of that number; it sleeps until there is one.

        Readers that block on a socket are woken in turn. Of those that wait by EPOLLEXCLUSIVE the kernel
        wakes the first one that is idle, always in the same order: under little load the same worker
        gets every request, and finds its weights in the caches of its core (epoll_ctl(2)).
        """
        if self._sleep is None:
            self._sleep = select.epoll()
            self._sleep.register(self._requests_out, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        while (request := self.receive_request()) is None:
            self._waiting[worker] = True
            self._sleep.poll()
            self._waiting[worker] = False
        return request

    def on_worker_exit(self, worker: int) -> None:
        """The worker of that number waits no more: else the others would leave requests to it."""
        self._waiting[worker] = False

    def another_waits(self) -> bool:
        """Whether some worker has nothing to do (who asks has)."""
        return any(self._waiting)

    def requests_file(self) -> int:
        """The descriptor to wait on for requests."""
        return self._requests_out.fileno()

    def send_registration(self) -> None:
        """Tell the HTTP process who will response, so that it notices if this process dies."""
        send(self._responses_in, (RESPONSE.pack(REGISTRATION, os.getpid(), 0),))

    def send_responses(self, responses: Sequence[Response]) -> None:
        """Answer a batch, in one message; waits while the HTTP process does not read."""
        parts: list[bytes] = []
        for response in responses:
            parts += (RESPONSE.pack(response.slot, response.status, len(response.body)), response.body)
        send(self._responses_in, (b"".join(parts),))

    def receive_responses(self) -> list[Response]:
        """The responses in the next message.

        Raises:
            BlockingIOError: there is none.
        """
        message = receive(self.responses_out, socket.MSG_DONTWAIT)
        responses, place = [], 0
        while place < len(message):
            slot, status, length = RESPONSE.unpack_from(message, place)
            place += RESPONSE.size
            responses.append(Response(slot, status, message[place : place + length]))
            place += length
        return responses
