"""How a worker collects a batch; test_classifier.py has how it answers one."""

from __future__ import annotations

import os
import threading
import time

import pytest

from litmeter.direct.channel import Channel
from litmeter.direct.messages import Request
from litmeter.direct.worker import collect_batch
from tests.support.direct import open_channel


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
        size = 0
        for _ in collect_batch(channel, 0, 3, 0.0):
            size += 1
            send_request(channel)
        assert size == 3


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
        assert took_s == pytest.approx(0.5, abs=0.25)


def test_released_requests_are_left_out_and_others_claimed() -> None:
    with open_channel(8) as channel:
        released, kept = send_request(channel), send_request(channel)
        channel.slots.release(released)
        batch = list(collect_batch(channel, 0, 4, 0.0))
        assert [request.slot for request in batch] == [kept]
        assert channel.slots.claimed_by(kept) == os.getpid()
