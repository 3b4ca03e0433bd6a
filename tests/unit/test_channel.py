"""The way between the HTTP process and workers: messages on real sockets, slots, and who gets a request."""

from __future__ import annotations

import asyncio
import collections
import itertools
import multiprocessing
import os
import socket
import sys
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
from litmeter.direct.dispatcher import Dispatcher
from litmeter.direct.messages import Reply
from litmeter.kinds.classifier import Classifier
from tests.support.direct import ask, open_channel


@pytest.mark.parametrize("size", [1, MAX_INLINE_BYTES, MAX_INLINE_BYTES + 1, 20_000_000])
def test_a_message_of_any_size_arrives_whole(size: int) -> None:
    sender, receiver = socket_pair()
    content = os.urandom(size)
    files = len(os.listdir("/proc/self/fd"))
    with sender, receiver:
        send(sender, (content[:1], content[1:]))
        assert receive(receiver) == content
        assert len(os.listdir("/proc/self/fd")) == files


def test_a_full_socket_and_an_empty_one_block() -> None:
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


def test_a_slot_is_claimed_until_released_and_never_after() -> None:
    slots = Slots(2, 2)
    first, second = slots.acquire(), slots.acquire()
    assert slots.full
    assert slots.claimed_by(first) == UNCLAIMED
    assert slots.claim(first, 0, 7)
    assert slots.claimed_by(first) == 7
    slots.release(second)
    assert not slots.claim(second, 0, 7)
    third = slots.acquire()
    assert third not in (first, second, REGISTRATION)
    assert not slots.claim(second, 0, 7)
    assert slots.claim(third, 1, 8)
    assert (slots.claimed_by(first), slots.claimed_by(third)) == (7, 8)


def test_a_claim_that_a_release_overtakes_is_none_of_the_next_request() -> None:
    """The slot is released, and its place taken again, before each instruction of the claim in turn."""
    for number in range(1000):
        for other_claims in (False, True):
            slots, later = Slots(1, 2), list[int]()
            first = slots.acquire()

            def release_and_acquire(
                slots: Slots = slots, first: int = first, later: list[int] = later, also: bool = other_claims
            ) -> None:
                slots.release(first)
                second = slots.acquire()
                later.append(second)
                assert not also or slots.claim(second, 1, 8)

            before_instruction(number, release_and_acquire, lambda slots=slots, s=first: slots.claim(s, 0, 7))
            if not later:  # the claim has fewer instructions
                assert number > 10
                assert slots.claimed_by(first) == 7
                return
            assert slots.claimed_by(later[0]) == (8 if other_claims else UNCLAIMED)


def before_instruction(number: int, act: Callable[[], object], function: Callable[[], bool]) -> bool:
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
        return function()
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
        spawn = multiprocessing.get_context("spawn")
        workers = [
            spawn.Process(target=answer_with_number, args=(channel, number), daemon=True)
            for number in range(3)
        ]
        for worker in workers:
            worker.start()
        try:
            dispatcher = Dispatcher(channel, Classifier(workers_per_device=3), 30.0)
            dispatcher.start()
            while sum(channel._idle) < len(workers):
                await asyncio.sleep(0.05)
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
