"""The direct transport's parts, on real sockets and in real processes."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from servebench.serving.direct.channel import HELLO, Answer, Channel, Request
from servebench.serving.direct.dispatcher import Dispatcher
from servebench.serving.direct.messages import INLINE_BYTES, receive, send, socket_pair
from servebench.serving.direct.tickets import NOBODY, Tickets


@pytest.mark.parametrize("size", [1, 33_000, INLINE_BYTES, INLINE_BYTES + 1, 20_000_000])
def test_a_message_of_any_size_arrives_whole(size: int) -> None:
    sender, receiver = socket_pair()
    content = os.urandom(size)
    files = len(os.listdir("/proc/self/fd"))
    with sender, receiver:
        send(sender, (content[:1], content[1:]))
        assert receive(receiver) == content
        assert len(os.listdir("/proc/self/fd")) == files


def test_a_full_socket_says_so_and_an_empty_one_too() -> None:
    sender, receiver = socket_pair()
    with sender, receiver:
        with pytest.raises(BlockingIOError):
            receive(receiver, socket.MSG_DONTWAIT)
        sent = itertools.takewhile(lambda _: fits(sender), range(10_000))
        assert 1 <= len(list(sent)) < 10_000


def fits(sender: socket.socket) -> bool:
    try:
        send(sender, (bytes(50_000),), socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    return True


def test_a_ticket_is_taken_once_withdrawn_never() -> None:
    tickets = Tickets(2)
    first, second = tickets.issue(), tickets.issue()
    assert first is not None
    assert second is not None
    assert tickets.issue() is None
    assert tickets.taken_by(first) == NOBODY
    assert tickets.take(first, 7)
    assert tickets.taken_by(first) == 7
    tickets.withdraw(second)
    assert not tickets.take(second, 7)
    third = tickets.issue()
    assert third is not None
    assert third not in (first, second, HELLO)
    assert not tickets.take(second, 7)
    assert tickets.take(third, 8)


@contextmanager
def opened(places: int) -> Iterator[Channel]:
    """A channel whose sockets are closed in the end."""
    channel = Channel(places)
    try:
        yield channel
    finally:
        for end in vars(channel).values():
            if isinstance(end, socket.socket):
                end.close()


def work(channel: Channel, seconds: float, kind: str) -> None:
    """A worker that answers with the body, or dies with its first request."""
    channel.send_hello()
    while True:
        request = channel.receive_request(wait=True)
        assert request is not None
        if not channel.tickets.take(request.ticket, os.getpid()):
            continue
        time.sleep(seconds)
        if kind == "dies":
            os._exit(1)
        channel.send_answers([Answer(request.ticket, 200, request.body)])


def ask_many(
    workers: int, bodies: list[bytes], *, places: int = 1024, seconds: float = 0.0, timeout_s: float = 10.0
) -> list[tuple[int, bytes]]:
    """What a dispatcher gets for ``bodies``, all asked at once."""
    with opened(places) as channel:
        return asyncio.run(_ask_many(channel, workers, bodies, seconds, timeout_s, "works"))


async def _ask_many(
    channel: Channel, workers: int, bodies: list[bytes], seconds: float, timeout_s: float, kind: str
) -> list[Any]:
    spawn = multiprocessing.get_context("spawn")
    processes = [
        spawn.Process(target=work, args=(channel, seconds, kind), daemon=True) for _ in range(workers)
    ]
    for process in processes:
        process.start()
    try:
        dispatcher = Dispatcher(channel, timeout_s)
        return list(await asyncio.gather(*(dispatcher.ask(True, body) for body in bodies)))
    finally:
        for process in processes:
            process.kill()
            process.join()


def test_each_answer_goes_to_who_asked_however_many_and_large() -> None:
    bodies = [bytes([number]) * (1 + number * number * 3) for number in range(250)]
    assert ask_many(2, bodies) == [(200, body) for body in bodies]


def test_beyond_the_places_requests_are_refused_at_once() -> None:
    replies = ask_many(1, [b"x"] * 10, places=4)
    assert [status for status, _ in replies] == [200] * 4 + [503] * 6
    assert b"full" in replies[-1][1]


def test_who_waited_too_long_is_told_and_never_worked_for() -> None:
    started = time.monotonic()
    replies = ask_many(1, [b"x"] * 20, seconds=0.5, timeout_s=1.5)
    statuses = [status for status, _ in replies]
    assert set(statuses) == {200, 504}
    assert statuses.count(504) > 10
    # Twenty would take ten seconds.
    assert time.monotonic() - started < 9
    assert b"no worker was free within 1.5 s" in replies[-1][1]


def test_the_requests_of_a_worker_that_dies_are_answered() -> None:
    with opened(16) as channel:
        replies = asyncio.run(_ask_many(channel, 1, [b"x", b"y"], 0.3, 1.5, "dies"))
    assert [status for status, _ in replies] == [503, 504]
    assert b"the worker that had this request died" in replies[0][1]


def test_a_request_that_is_given_up_frees_its_place_and_is_not_worked_for() -> None:
    async def give_up(channel: Channel) -> None:
        dispatcher = Dispatcher(channel, 10.0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(dispatcher.ask(True, b"first"), 0.1)
        second = asyncio.create_task(dispatcher.ask(True, b"second"))
        await asyncio.sleep(0)

        def serve() -> None:
            for _ in range(2):
                request: Request | None = channel.receive_request(wait=True)
                assert request is not None
                if channel.tickets.take(request.ticket, 1):
                    channel.send_answers([Answer(request.ticket, 200, request.body)])

        threading.Thread(target=serve).start()
        assert await second == (200, b"second")

    with opened(1) as channel:
        asyncio.run(give_up(channel))
