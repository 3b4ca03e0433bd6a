"""Messages between processes, on real sockets."""

from __future__ import annotations

import itertools
import os
import socket

import pytest

from litmeter.serving.direct.messages import MAX_INLINE_BYTES, receive, send, socket_pair


@pytest.mark.parametrize("size", [1, 33_000, MAX_INLINE_BYTES, MAX_INLINE_BYTES + 1, 20_000_000])
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
