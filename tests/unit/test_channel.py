"""The channel between dispatcher and workers: messages on real sockets, slots, and who gets a request."""

from __future__ import annotations

import asyncio
import collections
import itertools
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from litmeter.direct.channel import (
    MAX_INLINE_BYTES,
    REGISTRATION,
    UNCLAIMED,
    Channel,
    Slots,
    receive,
    send,
    socket_pair,
)
from litmeter.direct.dispatcher import STOPPING, Dispatcher
from litmeter.direct.http import FULL
from litmeter.direct.messages import Reply, Request
from litmeter.direct.middleware import UNAUTHORISED
from litmeter.direct.worker import collect_batch
from litmeter.kinds.classifier import Classifier
from tests.support.direct import ask, die, never_disconnects, open_channel, route_to

SPAWN = multiprocessing.get_context("spawn")


@pytest.mark.parametrize("size", [1, MAX_INLINE_BYTES, MAX_INLINE_BYTES + 1, 20_000_000])
def test_a_message_of_any_size_arrives_whole(size: int) -> None:
    sender, receiver = socket_pair()
    content = os.urandom(size)
    files = len(os.listdir("/proc/self/fd"))
    with sender, receiver:
        send(sender, b"", (content[:1], content[1:]))
        assert receive(receiver) == content
        assert len(os.listdir("/proc/self/fd")) == files


def test_a_full_socket_and_an_empty_one_block() -> None:
    sender, receiver = socket_pair()
    with sender, receiver:
        with pytest.raises(BlockingIOError):
            receive(receiver, socket.MSG_DONTWAIT)
        with pytest.raises(BlockingIOError):
            [send(sender, b"", (bytes(50_000),), socket.MSG_DONTWAIT) for _ in range(10_000)]
        assert len(receive(receiver)) == 50_000


def test_a_slot_is_claimed_until_released_and_never_after() -> None:
    slots = Slots(2, 2)
    first, second = slots.acquire(), slots.acquire()
    assert not slots.free
    assert slots.claimed_by(first) == UNCLAIMED
    assert slots.claim(first, 0, 7)
    slots.release(second)
    assert not slots.claim(second, 0, 7)
    third = slots.acquire()
    assert third not in (first, second, REGISTRATION)
    assert not slots.claim(second, 0, 7)
    assert slots.claim(third, 1, 8)
    assert (slots.claimed_by(first), slots.claimed_by(third)) == (7, 8)


def test_a_claim_that_a_release_overtakes_is_none_of_the_next_request() -> None:
    """The slot is released, and its place taken again, before each instruction of the claim in turn."""
    for number, other_claims in itertools.product(range(1000), (False, True)):
        slots, later = Slots(1, 2), list[int]()
        first = slots.acquire()

        def release_and_acquire(
            slots: Slots = slots, first: int = first, later: list[int] = later, also: bool = other_claims
        ) -> None:
            slots.release(first)
            later.append(slots.acquire())
            assert not also or slots.claim(later[0], 1, 8)

        before_instruction(number, release_and_acquire, lambda slots=slots, s=first: slots.claim(s, 0, 7))
        if not later:  # the claim has fewer instructions
            assert number > 10
            assert slots.claimed_by(first) == 7
            return
        assert slots.claimed_by(later[0]) == (8 if other_claims else UNCLAIMED)


def before_instruction(number: int, act: Callable[[], object], function: Callable[[], bool]) -> None:
    """Call ``function``, and ``act`` before this instruction of ``Slots.claim``, if there are so many."""
    count = -1

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if frame.f_code is not Slots.claim.__code__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            count += 1
            if count == number:
                sys.settrace(None)
                act()
        return trace

    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(None)


def answer_with_number(channel: Channel, number: int) -> None:
    channel.send_registration()
    while True:
        request = channel.wait_for_request(number)
        channel.send_replies({request.slot: Reply(200, str(number).encode())})


def test_one_user_gets_the_same_worker_every_time() -> None:
    """Whose caches are warm; readers that block on the socket would take turns."""

    async def ask_in_turn(channel: Channel) -> list[Reply]:
        workers = [
            SPAWN.Process(target=answer_with_number, args=(channel, number), daemon=True)
            for number in range(3)
        ]
        for worker in workers:
            worker.start()
        try:
            dispatcher = Dispatcher(channel, Classifier(workers_per_device=3), 30.0)
            dispatcher.start()
            await until(lambda: sum(channel._idle) == len(workers))
            answers = []
            for _ in range(50):
                await asyncio.sleep(0.005)  # so that every worker waits again
                answers.append(await ask(dispatcher, b"image"))
            return answers
        finally:
            for worker in workers:
                worker.kill()

    with open_channel(8) as channel:
        answers = asyncio.run(ask_in_turn(channel))
    assert {answer.status for answer in answers} == {200}
    _, most = collections.Counter(answers).most_common(1)[0]
    assert most > 34  # in turn it would be 17


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_a_request_that_a_dead_worker_had_gets_503_and_one_that_finds_none_in_time_504() -> None:
    async def ask_twice(channel: Channel) -> list[Reply]:
        dispatcher = Dispatcher(channel, Classifier(), 1.5)
        dispatcher.start()
        SPAWN.Process(target=die, args=(channel, 0.3), daemon=True).start()
        await until(lambda: dispatcher.health().status == 200)
        return list(await asyncio.gather(*(ask(dispatcher, body) for body in (b"x", b"y"))))

    with open_channel(16) as channel:
        replies = asyncio.run(ask_twice(channel))
    assert [reply.status for reply in replies] == [503, 504]
    assert b"died" in replies[0].body


def test_a_worker_gone_before_it_is_watched_is_dead() -> None:
    gone = SPAWN.Process(target=int)
    gone.start()
    gone.join()
    assert gone.pid is not None

    async def watch(channel: Channel, worker: int) -> Reply:
        dispatcher = Dispatcher(channel, Classifier(), 60.0)
        slot = dispatcher.slots.acquire()
        asked = asyncio.create_task(dispatcher.submit(slot, b"", b"x", never_disconnects))
        await asyncio.sleep(0)
        assert channel.slots.claim(slot, 0, worker)
        dispatcher.watch_worker(worker)
        return await asked

    with open_channel(4) as channel:
        reply = asyncio.run(watch(channel, gone.pid))
    assert (reply.status, b"died" in reply.body) == (503, True)


KEY = [(b"x-api-key", b"open-sesame")]
IMAGE = [(b"content-type", b"image/jpeg")]
TEXT = [(b"content-type", b"text/plain")]
FITS = [(b"content-length", b"10")]
TOO_LARGE = [(b"content-length", b"11")]


def test_stopping_comes_before_full_key_type_and_size() -> None:
    """One reason is added after another; each hides those that were there before."""
    with open_channel(1) as channel:
        dispatcher = Dispatcher(channel, Classifier(), 10.0)
        route = route_to(dispatcher, 10, "open-sesame")
        refused = [route.admit(KEY + IMAGE + TOO_LARGE), route.admit(KEY + TEXT + TOO_LARGE)]
        assert [one.status for one in refused if isinstance(one, Reply)] == [413, 415]
        assert route.admit(TEXT + TOO_LARGE) is UNAUTHORISED
        slot = dispatcher.slots.acquire()
        assert route.admit(TEXT + TOO_LARGE) is route.admit(KEY + IMAGE + FITS) is FULL
        dispatcher.stopping = True
        assert route.admit(TEXT + TOO_LARGE) is STOPPING
        dispatcher.release(slot)
        assert route.admit(KEY + IMAGE + FITS) is STOPPING


def test_large_bodies_keep_no_small_one_out() -> None:
    """Announced bytes do not count: clients that send nothing would keep others out."""
    with open_channel(4) as channel:
        settings = Classifier(max_queue=4, max_queue_mib=1)
        route = route_to(Dispatcher(channel, settings, 10.0), 2**20, settings=settings)
        large, small = ([*IMAGE, (b"content-length", b"%d" % size)] for size in (2**18 + 1, 2**18))
        assert not any(isinstance(route.admit(large), Reply) for _ in range(2))
        route.held_bytes = 2**20
        assert route.admit(large) is FULL
        assert not isinstance(route.admit(small), Reply)
        assert not isinstance(route.admit(IMAGE), Reply)


def send_request(channel: Channel) -> int:
    slot = channel.slots.acquire()
    channel.send_request(Request(slot, b"image/jpeg", time.perf_counter(), b"image"))
    return slot


def test_requests_are_left_to_an_idle_worker_until_it_exits() -> None:
    with open_channel(8) as channel:
        for _ in range(3):
            send_request(channel)
        channel._idle[1] = True
        assert len(list(collect_batch(channel, 0, 4, 0.0))) == 1
        channel.on_worker_exit(1)
        assert len(list(collect_batch(channel, 0, 4, 0.0))) == 2


def test_requests_that_come_while_decoding_join_the_batch() -> None:
    with open_channel(8) as channel:
        send_request(channel)
        assert len([send_request(channel) for _ in collect_batch(channel, 0, 3, 0.0)]) == 3


def test_a_batch_waits_for_more_until_its_timeout() -> None:
    with open_channel(8) as channel:
        first = send_request(channel)
        later = threading.Timer(0.1, send_request, (channel,))
        later.start()
        started = time.perf_counter()
        batch = list(collect_batch(channel, 0, 4, 0.5))
        took_s = time.perf_counter() - started
        later.join()
        assert [request.slot for request in batch] == [first, first + 1]
        assert took_s > 0.4


def test_released_requests_are_left_out_and_others_claimed() -> None:
    with open_channel(8) as channel:
        released, kept = send_request(channel), send_request(channel)
        channel.slots.release(released)
        assert [request.slot for request in collect_batch(channel, 0, 4, 0.0)] == [kept]
        assert channel.slots.claimed_by(kept) == os.getpid()


def test_who_dies_while_reading_a_long_request_is_known_to_have_had_it() -> None:
    with open_channel(8) as channel:
        slot = channel.slots.acquire()
        channel.send_request(Request(slot, b"image/jpeg", time.perf_counter(), bytes(2 * MAX_INLINE_BYTES)))
        reader = multiprocessing.get_context("fork").Process(target=die_reading, args=(channel,))
        reader.start()
        reader.join()
        assert (reader.exitcode, channel.slots.claimed_by(slot)) == (-signal.SIGKILL, reader.pid)


def die_reading(channel: Channel) -> None:
    """Be killed as the request's file is opened."""
    sys.addaudithook(lambda event, _: os.kill(os.getpid(), signal.SIGKILL) if event == "open" else None)
    channel.receive_request(0)
