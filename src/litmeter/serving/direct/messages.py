"""Messages between processes over Unix sockets of type SOCK_SEQPACKET.

Such a socket preserves message boundaries. When several processes read from it, the kernel delivers each
message to exactly one of them. A long message is written to a file in memory, whose descriptor is sent
instead (unix(7), memfd_create(2)).
"""

from __future__ import annotations

import errno
import os
import socket
from array import array
from collections.abc import Sequence

MAX_INLINE_BYTES = 98_304
"""Longer messages are sent as a file in memory: two more system calls, but no large copies in the kernel."""
ANCILLARY_BYTES = socket.CMSG_LEN(array("i").itemsize)
SEND_BUFFER_BYTES = 4_194_304
"""Requested size of a socket's send buffer; the kernel grants net.core.wmem_max at most."""


def is_supported() -> bool:
    """Whether this system has the system calls that the direct transport needs: Linux has, macOS has not."""
    return all(
        hasattr(*owner) for owner in ((socket, "SOCK_SEQPACKET"), (os, "memfd_create"), (os, "pidfd_open"))
    )


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """A pair of connected sockets: messages sent on the first are received on the second."""
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    return sender, receiver


def send(connection: socket.socket, parts: Sequence[bytes], flags: int = 0) -> None:
    """Send ``parts``, concatenated, as one message.

    Raises:
        BlockingIOError: with MSG_DONTWAIT, where the socket's buffer is full.
        OSError: there is no descriptor or memory for the file of a long message.
    """
    if sum(map(len, parts)) <= MAX_INLINE_BYTES:
        try:
            connection.sendmsg(parts, (), flags)
            return
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
    file = os.memfd_create("litmeter-message")
    try:
        with open(file, "wb", closefd=False) as content:
            content.writelines(parts)
        # socket.send_fds and recv_fds ignore their flags.
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [file]))
        connection.sendmsg((b"file",), (rights,), flags)
    finally:
        os.close(file)


def receive(connection: socket.socket, flags: int = 0) -> bytes:
    """Receive one message; empty if the other end has been closed.

    Raises:
        BlockingIOError: with MSG_DONTWAIT, where there is none.
    """
    message, ancillary, _, _ = connection.recvmsg(MAX_INLINE_BYTES, ANCILLARY_BYTES, flags)
    if not ancillary:
        return message
    with open(array("i", ancillary[0][2])[0], "rb") as content:
        content.seek(0)
        return content.read()
