"""The direct transport's parts, on real sockets and in real processes."""

from __future__ import annotations

import asyncio
import collections
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

from servebench.serving.direct.channel import REGISTRATION, Answer, Channel, Request
from servebench.serving.direct.dispatcher import Dispatcher
from servebench.serving.direct.messages import INLINE_BYTES, receive, send, socket_pair
from servebench.serving.direct.slots import NOBODY, Slots
from servebench.serving.direct.worker import DirectLoop


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
    slots = Slots(2)
    first, second = slots.acquire(), slots.acquire()
    assert first is not None
    assert second is not None
    assert slots.acquire() is None
    assert slots.claimed_by(first) == NOBODY
    assert slots.take(first, 7)
    assert slots.claimed_by(first) == 7
    slots.release(second)
    assert not slots.take(second, 7)
    third = slots.acquire()
    assert third is not None
    assert third not in (first, second, REGISTRATION)
    assert not slots.take(second, 7)
    assert slots.take(third, 8)


@contextmanager
def opened(places: int) -> Iterator[Channel]:
    """A channel whose sockets are closed in the end."""
    channel = Channel(places, 4)
    try:
        yield channel
    finally:
        for end in vars(channel).values():
            if isinstance(end, socket.socket):
                end.close()


def work(channel: Channel, number: int, seconds: float, kind: str) -> None:
    """A worker that answers with the body, or dies with its first request, taken or not."""
    channel.send_registration()
    while True:
        request = channel.wait_for_request(number)
        if kind == "drops":
            os._exit(1)
        if not channel.slots.claim(request.slot, os.getpid()):
            continue
        time.sleep(seconds)
        if kind == "dies":
            os._exit(1)
        channel.send_responses([Answer(request.slot, 200, request.body)])


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
        spawn.Process(target=work, args=(channel, number, seconds, kind), daemon=True)
        for number in range(workers)
    ]
    for process in processes:
        process.start()
    try:
        dispatcher = Dispatcher(channel, timeout_s, workers)
        dispatcher.start()
        return list(await asyncio.gather(*(ask(dispatcher, body) for body in bodies)))
    finally:
        for process in processes:
            process.kill()
            process.join()


async def stays() -> Any:
    """Of the connection of a client that does not go away."""
    await asyncio.Event().wait()


async def ask(dispatcher: Dispatcher, body: bytes) -> Any:
    """As the route does it."""
    slot = dispatcher.admit()
    if slot is None:
        return dispatcher.rejection()
    try:
        return await dispatcher.ask(slot, True, body, stays)
    finally:
        dispatcher.release(slot)


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


def answer_who(channel: Channel, number: int) -> None:
    """A worker that answers with its number."""
    channel.send_registration()
    while True:
        request = channel.wait_for_request(number)
        channel.send_responses([Answer(request.slot, 200, str(number).encode())])


def test_one_user_gets_the_same_worker_every_time() -> None:
    """Whose caches are warm; readers that block on the socket would take turns."""

    async def ask_in_turn(channel: Channel) -> list[tuple[int, bytes]]:
        spawn = multiprocessing.get_context("spawn")
        workers = [spawn.Process(target=answer_who, args=(channel, n), daemon=True) for n in range(3)]
        for worker in workers:
            worker.start()
        try:
            dispatcher = Dispatcher(channel, 30.0, len(workers))
            dispatcher.start()
            while sum(channel._waiting) < len(workers):
                await asyncio.sleep(0.05)
            answers = []
            for _ in range(50):
                await asyncio.sleep(0.005)  # so that every worker waits again
                answers.append(await ask(dispatcher, b"image"))
            return answers
        finally:
            for worker in workers:
                worker.kill()

    with opened(8) as channel:
        answers = asyncio.run(ask_in_turn(channel))
    assert {status for status, _ in answers} == {200}
    _, most = collections.Counter(answers).most_common(1)[0]
    assert most > 34  # in turn it would be 17


def test_what_an_idle_worker_can_begin_is_left_to_it() -> None:
    with opened(8) as channel:
        loop = DirectLoop(channel)
        loop._worker_id = 0
        for slot in (channel.slots.acquire(), channel.slots.acquire(), channel.slots.acquire()):
            assert slot is not None
            channel.send_request(Request(slot, True, time.perf_counter(), b"image"))
        channel._waiting[1] = True
        assert len(list(loop._collect(4, 0.0))) == 1
        loop.on_worker_exit(1)
        assert len(list(loop._collect(4, 0.0))) == 2


def test_what_comes_while_a_batch_is_decoded_is_in_it() -> None:
    with opened(8) as channel:
        loop = DirectLoop(channel)
        loop._worker_id = 0

        def send_one() -> None:
            slot = channel.slots.acquire()
            assert slot is not None
            channel.send_request(Request(slot, True, time.perf_counter(), b"image"))

        send_one()
        size = 0
        for _ in loop._collect(3, 0.0):
            size += 1
            send_one()
        assert size == 3


def test_a_request_that_is_given_up_frees_its_place_and_is_not_worked_for() -> None:
    async def give_up(channel: Channel) -> None:
        dispatcher = Dispatcher(channel, 10.0, 1)
        dispatcher.start()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask(dispatcher, b"first"), 0.1)
        second = asyncio.create_task(ask(dispatcher, b"second"))
        await asyncio.sleep(0)

        def serve() -> None:
            for _ in range(2):
                request = channel.wait_for_request(0)
                if channel.slots.claim(request.slot, 1):
                    channel.send_responses([Answer(request.slot, 200, request.body)])

        threading.Thread(target=serve).start()
        assert await second == (200, b"second")

    with opened(1) as channel:
        asyncio.run(give_up(channel))
