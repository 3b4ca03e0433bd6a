"""Several load generators as one, on this machine and on others: each sends its share of a load.

A process sends some thousands of requests a second at most. Of the arrivals of an open loop, each sends an
equal part, so that the sum is what one would send. All shares begin and end at the same absolute times, and
their records are brought together, request by request, on this machine's clock.

Senders on other machines join one that listens. Messages are JSON and bytes over TCP, in the framing of
``multiprocessing.connection``, which lets nobody in who does not prove to have the shared key. They are not
encrypted: both sides belong into a trusted network.
"""

from __future__ import annotations

import io
import json
import math
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing import AuthenticationError
from multiprocessing.connection import (
    Client,
    Connection,
    Listener,
    answer_challenge,
    deliver_challenge,
)
from typing import Any

import numpy as np

from litmeter.errors import LoadError, UsageError
from litmeter.load.generator import LoadGenerator, LoadPlan, OnProgress, load_generator, read_record
from litmeter.stats.records import REQUEST_FIELDS, LoadRecord
from litmeter.system.tables import pluralise

START_S = 1.0
"""From the order to begin until the first request: time for the order to reach all senders."""
POLL_S = 0.1
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
    """The key that both sides have, from the environment; raise UsageError if it is too short."""
    key = os.environ.get(KEY_VARIABLE, "")
    if len(key) < SHORTEST_KEY:
        raise UsageError(
            f"{KEY_VARIABLE}: expected a key of at least {SHORTEST_KEY} characters in the environment of all "
            f"machines, got {len(key)}"
        )
    return key.encode()


class _RemoteSender:
    """A sender on another machine, as this one sees it. All methods raise LoadError where that has gone."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._ready = False

    def clock(self) -> float:
        self._send({"do": "clock"})
        return float(json.loads(self._receive())["time"])

    def prepare(self, bodies: Sequence[bytes], content_type: str, headers: Mapping[str, str]) -> None:
        """Tell it what to send; it gets ready meanwhile."""
        message = {"do": "prepare", "type": content_type, "headers": dict(headers), "bodies": len(bodies)}
        self._send(message, *bodies)

    def wait_until_ready(self) -> None:
        if not self._ready:
            self._receive()
            self._ready = True

    def run(self, url: str, plan: LoadPlan, *, on_progress: OnProgress) -> LoadRecord:
        """Run one load there; see ``LoadGenerator.run``."""
        self._send({"do": "run", "url": url, "plan": asdict(plan)})
        try:
            while (answer := json.loads(self._receive()))["event"] == "progress":
                on_progress(answer["seconds"])
        except BaseException:
            with suppress(LoadError):  # its connection has ended, and so has the load
                self._stop()
            raise
        if answer["event"] == "failed":
            raise LoadError(answer["reason"])
        return read_record(io.BytesIO(self._receive()), plan)

    def _stop(self) -> None:
        """End the load there, and read all that it has answered."""
        self._send({"do": "stop"})
        while (event := json.loads(self._receive())["event"]) == "progress":
            pass
        if event == "done":
            self._receive()

    def _send(self, message: Mapping[str, Any], *contents: bytes) -> None:
        try:
            for content in (json.dumps(message).encode(), *contents):
                self._connection.send_bytes(content)
        except OSError as error:
            raise LoadError("its connection has ended") from error

    def _receive(self) -> bytes:
        try:
            return self._connection.recv_bytes()
        except (EOFError, OSError) as error:
            raise LoadError("its connection has ended") from error


@dataclass(frozen=True)
class Member:
    """One of several senders."""

    name: str
    sender: LoadGenerator | _RemoteSender
    clock_s: float = 0.0  # its monotonic clock minus this machine's


@dataclass(frozen=True)
class SenderGroup:
    """Senders that run each load together; used like a ``LoadGenerator``."""

    members: Sequence[Member]

    def run(self, url: str, plan: LoadPlan, *, on_progress: OnProgress = lambda seconds: None) -> LoadRecord:
        """Run one load, shared by all; when this returns or raises, no request is in flight.

        Args:
            on_progress: called a few times a second; an exception that it raises ends the load.

        Raises:
            LoadError: a sender failed; what the others measured is void.
        """
        for member in self.members:
            with _naming(member):
                member.sender.wait_until_ready()
        begin_at = time.perf_counter() + START_S
        measured_s = {member.name: 0.0 for member in self.members}
        stopped = threading.Event()

        def run_share(member: Member, share: LoadPlan) -> LoadRecord:
            def on_share_progress(seconds: float) -> None:
                if stopped.is_set():
                    raise LoadError("stopped")
                measured_s[member.name] = seconds

            own = replace(share, begin_at=begin_at + member.clock_s)
            with _naming(member):
                return member.sender.run(url, own, on_progress=on_share_progress)

        threads = ThreadPoolExecutor(len(self.members))
        futures = {
            threads.submit(run_share, member, share): member
            for member, share in zip(self.members, shares_of(plan, len(self.members)), strict=True)
            if share is not None
        }
        try:
            pending = set(futures)
            while pending:
                done, pending = wait(pending, POLL_S, FIRST_COMPLETED)
                for future in done:
                    future.result()
                on_progress(max(measured_s.values()))
        except BaseException:
            stopped.set()
            wait(futures)
            raise
        finally:  # threads that still wait for a sender end when its process or connection does
            threads.shutdown(wait=False, cancel_futures=True)
        records = [on_this_clock(future.result(), member.clock_s) for future, member in futures.items()]
        return merged(records, plan)


Sender = LoadGenerator | SenderGroup
"""What runs loads."""


@contextmanager
def _naming(member: Member) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise LoadError(f"sender {member.name}: {error}; this load is void") from error


def shares_of(plan: LoadPlan, senders: int) -> list[LoadPlan | None]:
    """The plan of each sender: its part of the users or of the rate; None for one that has no part."""
    shares: list[LoadPlan | None] = []
    for number in range(senders):
        own = replace(plan, sender=number, senders=senders)
        if plan.rate_rps is None:
            users = plan.users // senders + (number < plan.users % senders)
            shares.append(replace(own, users=users) if users else None)
        else:
            users = math.ceil(plan.users / senders)
            shares.append(replace(own, users=users, rate_rps=plan.rate_rps / senders))
    return shares


def on_this_clock(record: LoadRecord, clock_s: float) -> LoadRecord:
    """The record of a sender whose clock is ``clock_s`` ahead."""
    names = ("window_edges", "start", "sent", "end")
    times: dict[str, Any] = {name: getattr(record, name) - clock_s for name in names}
    return replace(record, **times)


def merged(records: Sequence[LoadRecord], plan: LoadPlan) -> LoadRecord:
    """All requests of ``records`` in the order in which they ended, in the windows of the first one."""
    users_before = np.cumsum([0, *(record.users for record in records)])
    arrays = {name: np.concatenate([getattr(record, name) for record in records]) for name in REQUEST_FIELDS}
    arrays["user"] += np.repeat(users_before[:-1], [len(record.user) for record in records])
    order = np.argsort(arrays["end"], kind="stable")
    return LoadRecord(
        users=int(users_before[-1]),
        rate_rps=plan.rate_rps,
        window_edges=records[0].window_edges,
        cores=max(record.cores for record in records),
        **{name: values[order] for name, values in arrays.items()},
    )


@contextmanager
def local_senders(
    number: int, bodies: Sequence[bytes], content_type: str, headers: Mapping[str, str] | None = None
) -> Iterator[SenderGroup]:
    """Start ``number`` load generators on this machine; end them when the block is left."""
    with ExitStack() as stack:
        members = []
        for index in range(number):
            generator = stack.enter_context(load_generator(bodies, content_type, headers))
            members.append(Member(f"{index + 1} on this machine", generator))
        yield SenderGroup(members)


def clock_difference(ask: Callable[[], float]) -> tuple[float, float]:
    """Another clock, which ``ask`` reads, minus this one, and half of the fastest round trip, by which the
    difference may be off; seconds.
    """
    trips = []
    for _ in range(20):
        asked = time.perf_counter()
        theirs = ask()
        answered = time.perf_counter()
        trips.append((answered - asked, theirs - (asked + answered) / 2))
    trip_s, difference_s = min(trips)
    return difference_s, trip_s / 2


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
                connection = _accept(listener, key)
            except (AuthenticationError, EOFError, OSError):
                show("a sender without the shared key was refused")
                continue
            stack.enter_context(connection)
            host = (listener.last_accepted or ("?", 0))[0]
            sender = _RemoteSender(connection)
            difference_s, error_s = clock_difference(sender.clock)
            sender.prepare(bodies, content_type, headers or {})
            members.append(Member(f"{len(members) + 1} ({host})", sender, difference_s))
            clock = f"clock {1000 * difference_s:+.3f} ms, known to {1000 * error_s:.3f} ms"
            show(f"sender {members[-1].name}: {clock}")
        yield SenderGroup(members)


def _accept(listener: Listener, key: bytes) -> Connection:
    """The next connection, once its other side has proved to have the key, in AUTHENTICATION_S at most."""
    connection: Connection = listener.accept()
    try:
        with _duplicated(connection) as its_socket:  # reading fails after that long without a byte; 0: never
            its_socket.setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", AUTHENTICATION_S, 0)
            )
            deliver_challenge(connection, key)
            answer_challenge(connection, key)
            its_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 0))
        _end_with_network(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _end_with_network(connection: Connection) -> None:
    """Make ``connection`` fail when the other machine has not been heard of for KEEP_ALIVE's time."""
    with _duplicated(connection) as its_socket:
        its_socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEP_ALIVE.items():
            if hasattr(socket, name):
                its_socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _duplicated(connection: Connection) -> socket.socket:
    """The socket of ``connection`` once more, to set its options and to close."""
    return socket.socket(fileno=os.dup(connection.fileno()))


def join(address: tuple[str, int], show: Callable[[str], None]) -> None:
    """Join the machine that listens at ``address``, and run its loads until it is done.

    Raises:
        UsageError: there is no shared key, or another one; LoadError: the machine cannot be reached.
    """
    connection = _connect(address, shared_key())
    _end_with_network(connection)
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
        try:
            return Client(address, authkey=key)
        except AuthenticationError as error:
            raise UsageError(f"{address[0]}:{address[1]} has another shared key ({KEY_VARIABLE})") from error
        except OSError as error:
            if time.monotonic() > deadline:
                raise LoadError(f"{address[0]}:{address[1]} cannot be reached ({error.strerror})") from error
        time.sleep(RETRY_S)


def _answer(connection: Connection, **values: Any) -> None:
    connection.send_bytes(json.dumps(values).encode())
