"""Senders on other machines: they join a machine that listens, and run their shares of its loads.

Messages are JSON and bytes over TCP, in the framing of ``multiprocessing.connection``, which lets nobody in
who does not prove to have the shared key. They are not encrypted: both sides belong into a trusted network.
"""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from multiprocessing import AuthenticationError
from multiprocessing.connection import (
    Client,
    Connection,
    Listener,
    answer_challenge,
    deliver_challenge,
)
from typing import Any

from litmeter.errors import LoadError, UsageError
from litmeter.load.generator import LoadPlan, OnProgress, load_generator, read_record
from litmeter.load.senders import Member, SenderGroup, clock_difference
from litmeter.stats.records import LoadRecord
from litmeter.system.tables import pluralise

KEY_VARIABLE = "LITMETER_SENDER_KEY"
SHORTEST_KEY = 16
RETRY_S = 0.5
JOIN_S = 60.0
"""How long a sender tries to reach the machine that listens."""
AUTHENTICATION_S = 10
"""How long whoever connects may take for each step of proving that it has the key."""
KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 30_000}
"""A machine that is not heard of for half a minute has gone (tcp(7); the last one in milliseconds)."""


def shared_key() -> bytes:
    """The key that both sides have, from the environment.

    Raises:
        UsageError: there is none, or it is too short.
    """
    key = os.environ.get(KEY_VARIABLE, "")
    if len(key) < SHORTEST_KEY:
        raise UsageError(
            f"{KEY_VARIABLE}: expected a key of at least {SHORTEST_KEY} characters in the environment of all "
            f"machines, got {len(key)}"
        )
    return key.encode()


class RemoteSender:
    """A sender on another machine, as this one sees it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._ready = False

    def clock(self) -> float:
        """Its monotonic clock, seconds."""
        self._send({"do": "clock"})
        return float(self._receive()["time"])

    def prepare(self, bodies: Sequence[bytes], content_type: str, headers: Mapping[str, str]) -> None:
        """Tell it what to send; it gets ready meanwhile."""
        self._send({"do": "prepare", "type": content_type, "headers": dict(headers), "bodies": len(bodies)})
        for body in bodies:
            self._send_bytes(body)

    def wait_until_ready(self) -> None:
        """Wait until it can begin at once; raise LoadError if its machine has gone."""
        if not self._ready:
            self._receive()
            self._ready = True

    def run(self, url: str, plan: LoadPlan, *, on_progress: OnProgress) -> LoadRecord:
        """Run one load there; see ``LoadGenerator.run``.

        Raises:
            LoadError: it failed, or its machine has gone.
        """
        self._send({"do": "run", "url": url, "plan": asdict(plan)})
        try:
            while (answer := self._receive())["event"] == "progress":
                on_progress(answer["seconds"])
        except BaseException:
            with suppress(LoadError):  # its connection has ended, and so has the load
                self._stop()
            raise
        if answer["event"] == "failed":
            raise LoadError(answer["reason"])
        return read_record(io.BytesIO(self._receive_bytes()), plan)

    def _stop(self) -> None:
        """End the load there, and read all that it has answered."""
        self._send({"do": "stop"})
        while (event := self._receive()["event"]) == "progress":
            pass
        if event == "done":
            self._receive_bytes()

    def _send(self, message: Mapping[str, Any]) -> None:
        self._send_bytes(json.dumps(message).encode())

    def _send_bytes(self, content: bytes) -> None:
        try:
            self._connection.send_bytes(content)
        except OSError as error:
            raise LoadError("its connection has ended") from error

    def _receive(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._receive_bytes())
        return answer

    def _receive_bytes(self) -> bytes:
        try:
            return self._connection.recv_bytes()
        except (EOFError, OSError) as error:
            raise LoadError("its connection has ended") from error


@contextmanager
def remote_senders(
    address: tuple[str, int],
    number: int,
    bodies: Sequence[bytes],
    content_type: str,
    headers: Mapping[str, str] | None = None,
    show: Callable[[str], None] = lambda text: None,
) -> Iterator[SenderGroup]:
    """Wait until ``number`` senders have joined at ``address``; let them go when the block is left.

    Args:
        show: called with a line for each that joins, with its clock's difference.

    Raises:
        UsageError: there is no shared key; LoadError: ``address`` cannot be listened at.
    """
    key = shared_key()
    with ExitStack() as stack:
        try:
            listener = stack.enter_context(Listener(address))
        except OSError as error:
            raise LoadError(f"{address[0]}:{address[1]}: {error.strerror}") from error
        members: list[Member] = []
        while len(members) < number:
            show(f"waiting for sender {len(members) + 1} of {number} at {address[0]}:{address[1]}")
            try:
                connection = accept(listener, key)
            except (AuthenticationError, EOFError, OSError):
                show("a sender without the shared key was refused")
                continue
            stack.enter_context(connection)
            host = (listener.last_accepted or ("?", 0))[0]
            sender = RemoteSender(connection)
            difference_s, error_s = clock_difference(sender.clock)
            sender.prepare(bodies, content_type, headers or {})
            members.append(Member(f"{len(members) + 1} ({host})", sender, difference_s))
            show(
                f"sender {members[-1].name}: clock {1000 * difference_s:+.3f} ms, known to "
                f"{1000 * error_s:.3f} ms"
            )
        yield stack.enter_context(SenderGroup(members))


def accept(listener: Listener, key: bytes) -> Connection:
    """The next connection, once its other side has proved to have the key.

    Raises:
        AuthenticationError, EOFError, OSError: it did not, or not within AUTHENTICATION_S.
    """
    connection: Connection = listener.accept()
    try:
        with duplicated(connection) as its_socket:
            limit_waiting(its_socket, AUTHENTICATION_S)
            deliver_challenge(connection, key)
            answer_challenge(connection, key)
            limit_waiting(its_socket, 0)
        end_with_network(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def limit_waiting(its_socket: socket.socket, seconds: int) -> None:
    """Make reading from a socket fail after ``seconds`` without a byte; 0 lets it wait."""
    its_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", seconds, 0))


def end_with_network(connection: Connection) -> None:
    """Make ``connection`` fail when the other machine has not been heard of for KEEP_ALIVE's time."""
    with duplicated(connection) as its_socket:
        its_socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEP_ALIVE.items():
            if hasattr(socket, name):
                its_socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def duplicated(connection: Connection) -> socket.socket:
    """The socket of ``connection`` once more, to set its options and to close."""
    return socket.socket(fileno=os.dup(connection.fileno()))


def join(address: tuple[str, int], show: Callable[[str], None]) -> None:
    """Join the machine that listens at ``address``, and run its loads until it is done.

    Raises:
        UsageError: there is no shared key, or another one; LoadError: the machine cannot be reached.
    """
    connection = _connect(address, shared_key())
    end_with_network(connection)
    show(f"joined {address[0]}:{address[1]}")

    def tell(seconds: float) -> None:
        if connection.poll():  # a message during a load stops it; so does the end of the connection
            raise LoadError("stopped")
        _answer(connection, event="progress", seconds=seconds)

    with connection, ExitStack() as stack, suppress(EOFError, ConnectionError, TimeoutError):
        generator = None
        while True:
            message = json.loads(connection.recv_bytes())
            if message["do"] == "clock":
                _answer(connection, time=time.perf_counter())
            elif message["do"] == "prepare":
                bodies = [connection.recv_bytes() for _ in range(message["bodies"])]
                generator = stack.enter_context(load_generator(bodies, message["type"], message["headers"]))
                generator.wait_until_ready()
                _answer(connection)
            elif message["do"] == "run":
                assert generator is not None
                plan = LoadPlan(**message["plan"])
                closed_loop = plan.rate_rps is None
                show(f"load: {pluralise(plan.users, 'user') if closed_loop else f'{plan.rate_rps:.6g}/s'}")
                try:
                    generator.run(message["url"], plan, on_progress=tell)
                except LoadError as error:
                    generator.wait_until_ready()  # for the next load
                    _answer(connection, event="failed", reason=str(error))
                    continue
                _answer(connection, event="done")
                connection.send_bytes(generator.record_path.read_bytes())
    show("done")


def _connect(address: tuple[str, int], key: bytes) -> Connection:
    deadline = time.monotonic() + JOIN_S
    while True:
        last = time.monotonic() > deadline
        try:
            return Client(address, authkey=key)
        except AuthenticationError as error:
            raise UsageError(f"{address[0]}:{address[1]} has another shared key ({KEY_VARIABLE})") from error
        except OSError as error:
            if last:
                raise LoadError(f"{address[0]}:{address[1]} cannot be reached ({error.strerror})") from error
        time.sleep(RETRY_S)


def _answer(connection: Connection, **values: Any) -> None:
    connection.send_bytes(json.dumps(values).encode())
