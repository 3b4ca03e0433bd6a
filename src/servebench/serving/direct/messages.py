"""Messages between processes on a Unix socket of kind SEQPACKET.

Such a socket keeps messages apart, and when several processes read one, each message goes to exactly
one of them: the kernel is a queue that wakes whoever is free. A message that is too long for the
socket's buffer travels as a file in memory, whose descriptor is sent in its place (unix(7), memfd_create(2)).
"""

from __future__ import annotations

import errno
import os
import socket
from array import array
from collections.abc import Sequence

INLINE_BYTES = 98_304
"""Longer messages travel as a file: two system calls more, but no large copies in the kernel."""
ONE_DESCRIPTOR = socket.CMSG_LEN(array("i").itemsize)
BUFFER_BYTES = 4_194_304
"""Asked of the kernel for what is sent and not yet read; it grants up to net.core.wmem_max."""


def is_supported() -> bool:
    """Whether this system has what the direct transport needs: Linux has it, macOS has not."""
    return all(
        hasattr(*owner) for owner in ((socket, "SOCK_SEQPACKET"), (os, "memfd_create"), (os, "pidfd_open"))
    )


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """A pair of connected sockets: what is sent on the first is received on the second."""
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    return sender, receiver


def send(connection: socket.socket, parts: Sequence[bytes], flags: int = 0) -> None:
    """Send the parts as one message.

    Raises:
        BlockingIOError: with MSG_DONTWAIT, while the socket's buffer is full.
    """
    if sum(map(len, parts)) <= INLINE_BYTES:
        try:
            connection.sendmsg(parts, (), flags)
            return
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
    file = os.memfd_create("servebench-message")
    try:
        with open(file, "wb", closefd=False) as content:
            content.writelines(parts)
        # Not socket.send_fds and recv_fds: they take flags and ignore them.
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [file]))
        connection.sendmsg((b"file",), (rights,), flags)
    finally:
        os.close(file)


def receive(connection: socket.socket, flags: int = 0) -> bytes:
    """The next message; empty when the other end has been closed.

    Raises:
        BlockingIOError: with MSG_DONTWAIT, when there is none.
    """
    message, ancillary, _, _ = connection.recvmsg(INLINE_BYTES, ONE_DESCRIPTOR, flags)
    if not ancillary:
        return message
    with open(array("i", ancillary[0][2])[0], "rb") as content:
        content.seek(0)
        return content.read()
