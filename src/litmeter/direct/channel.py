"""The channel between the HTTP process and the workers: messages over sockets, and slots in shared memory.

The Unix sockets are of type SOCK_SEQPACKET: they preserve message boundaries, and the kernel delivers each
message to exactly one of the processes that read. A long message is written to a file in memory, and the
file's descriptor is sent (unix(7), memfd_create(2)).
"""

from __future__ import annotations

import marshal
import os
import select
import socket
import struct
from array import array
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from litmeter.direct.forkserver import WORKERS
from litmeter.direct.messages import OUT_OF_RESOURCES, Reply, Request

MAX_INLINE_BYTES = 98_304
"""Longer messages are sent as files in memory: two more system calls, but no large copies in the kernel."""
ANCILLARY_BYTES = socket.CMSG_LEN(array("i").itemsize)
SEND_BUFFER_BYTES = 4_194_304
"""Requested send buffer of a socket; the kernel grants net.core.wmem_max at most."""


def is_supported() -> bool:
    """Whether this system has the system calls of the direct transport: Linux has them, macOS has not."""
    return hasattr(socket, "SOCK_SEQPACKET") and hasattr(os, "memfd_create") and hasattr(os, "pidfd_open")


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Connected sockets: the first sends, the second receives."""
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    return sender, receiver


class LostError(Exception):
    """The receiver had no descriptor left for a long message's file; the argument is the message's label."""


def send(connection: socket.socket, label: bytes, parts: Sequence[bytes], flags: int = 0) -> None:
    """Send the concatenated ``parts`` as one message; ``label`` arrives with a long one in any case.

    Raises:
        BlockingIOError: the socket's buffer is full (with MSG_DONTWAIT).
        OSError: no descriptor or memory is left for a long message's file.
    """
    if sum(map(len, parts)) <= MAX_INLINE_BYTES:
        connection.sendmsg(parts, (), flags)
        return
    file = os.memfd_create("litmeter-message")
    try:
        with open(file, "wb", closefd=False) as content:
            content.writelines(parts)
        # socket.send_fds and recv_fds ignore their flags.
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [file]))
        connection.sendmsg((label,), (rights,), flags)
    finally:
        os.close(file)


def receive(connection: socket.socket, flags: int = 0, on_start: Callable[[bytes], object] = bytes) -> bytes:
    """Receive one message, empty after the other end was closed; raise BlockingIOError with MSG_DONTWAIT.

    Raise LostError where no descriptor is left for its file.

    Args:
        on_start: gets the message, or a long one's label, before its file is read.
    """
    message, ancillary, received, _ = connection.recvmsg(MAX_INLINE_BYTES, ANCILLARY_BYTES, flags)
    if received & socket.MSG_CTRUNC:
        raise LostError(message)
    on_start(message)
    if not ancillary:
        return message
    with open(array("i", ancillary[0][2])[0], "rb") as content:
        content.seek(0)
        return content.read()


UNCLAIMED = 0
"""Process id of a slot that no worker has claimed."""


class Slots:
    """Slots for at most ``capacity`` requests in flight, in memory that the processes share.

    A slot is a number that is never reused, so that a message about an earlier request never matches a later
    request. Slot modulo ``capacity`` is the index in the shared arrays.

    A request whose body has come holds a slot until its answer. A worker claims it before it works on the
    request. The HTTP process releases the slot of a request that timed out or whose client disconnected; a
    worker then skips the request. When a worker dies, its claims tell which requests died with it.

    There are no locks: a worker stopped in the middle of a claim would block all others. Instead, each array
    element has one writer and is read and written atomically. Each worker writes its claims to its own row: a
    late claim overwrites no other worker's claim, and names a slot that nobody asks about any more. A worker
    writes the claim before it checks that the slot is still held: the claims of a dead worker are complete.

    Attributes:
        free: indices of the slots that no request holds; only the HTTP process's are right.
    """

    def __init__(self, capacity: int, workers: int) -> None:
        self.capacity = capacity
        self._in_use = WORKERS.RawArray("Q", capacity)
        self._claims = [WORKERS.RawArray("Q", capacity) for _ in range(workers)]
        self._claimants = [WORKERS.RawArray("L", capacity) for _ in range(workers)]
        self._next_slots = [index + capacity for index in range(capacity)]
        self.free = deque(range(capacity))

    def acquire(self) -> int:
        """Take a slot that is ``free``. Only the HTTP process calls this."""
        index = self.free.popleft()
        slot = self._next_slots[index]
        self._next_slots[index] = slot + self.capacity
        self._in_use[index] = slot
        return slot

    def release(self, slot: int) -> None:
        """Free ``slot``, if it is in use. Only the HTTP process calls this."""
        index = slot % self.capacity
        if self._in_use[index] == slot:
            self._in_use[index] = 0
            self.free.append(index)

    def claim(self, slot: int, worker: int, process: int) -> bool:
        """Claim a slot for the worker with this index and process id; False if the slot was released."""
        index = slot % self.capacity
        self._claimants[worker][index] = process
        self._claims[worker][index] = slot
        return bool(self._in_use[index] == slot)

    def claimed_by(self, slot: int) -> int:
        """Process id of the worker that claimed ``slot``; UNCLAIMED while the request is queued."""
        index = slot % self.capacity
        for claims, claimants in zip(self._claims, self._claimants, strict=True):
            if claims[index] == slot:
                return int(claimants[index])
        return UNCLAIMED


REQUEST = struct.Struct("<QdI")
"""Header of a request: slot, time of arrival (monotonic, seconds), length of the content type in bytes."""
REGISTRATION = 0
"""Slot of a worker's first message; the process id stands in place of the HTTP status."""


class Channel:
    """A socket pair for requests to all workers, one for their replies, and the slots.

    Created before the processes that share it.
    """

    def __init__(self, capacity: int, workers: int) -> None:
        self.slots = Slots(capacity, workers)
        self._idle = WORKERS.RawArray("B", workers)
        self.request_sender, self._request_receiver = socket_pair()
        self._reply_sender, self.reply_receiver = socket_pair()
        self._epoll: select.epoll | None = None

    def send_request(self, request: Request) -> None:
        """Send a request to the workers without blocking; raise as ``send`` does."""
        slot, content_type, received, body = request
        head = REQUEST.pack(slot, received, len(content_type))
        send(self.request_sender, head, (head, content_type, body), socket.MSG_DONTWAIT)

    def receive_request(self, worker: int) -> Request | None:
        """The next request, None if there is none, or it was lost and is refused; called by workers.

        It is claimed for the worker with index ``worker`` before a long body is read, so that a worker that
        dies in between is known to have had it.
        """

        def claim(head: bytes) -> None:
            self.slots.claim(REQUEST.unpack_from(head)[0], worker, os.getpid())

        try:
            message = receive(self._request_receiver, socket.MSG_DONTWAIT, claim)
        except BlockingIOError:
            return None
        except LostError as error:
            self.send_replies({REQUEST.unpack(error.args[0])[0]: OUT_OF_RESOURCES})
            return None
        slot, received, length = REQUEST.unpack_from(message)
        start = REQUEST.size + length
        return Request(slot, message[REQUEST.size : start], received, message[start:])

    def wait_for_request(self, worker: int) -> Request:
        """Block until there is a request for the worker with index ``worker``.

        The kernel would wake workers that block in recvmsg in turn. With EPOLLEXCLUSIVE it wakes the first
        idle worker, always in the same order: under low load one worker gets every request, and its weights
        stay in the caches of its core (epoll_ctl(2)).
        """
        if self._epoll is None:
            self._epoll = select.epoll()
            self._epoll.register(self._request_receiver, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        while (request := self.receive_request(worker)) is None:
            self._idle[worker] = True
            self._epoll.poll()
            self._idle[worker] = False
        return request

    def on_worker_exit(self, worker: int) -> None:
        """Mark a dead worker as busy, so that the others leave no requests to it."""
        self._idle[worker] = False

    def has_idle_worker(self) -> bool:
        """Whether any worker is idle; the calling worker is not."""
        return any(self._idle)

    def wait_readable(self, seconds: float) -> bool:
        """Wait up to ``seconds`` for a request; whether there is one."""
        return bool(select.select([self._request_receiver], [], [], seconds)[0])

    def send_registration(self) -> None:
        """Send this worker's process id to the HTTP process, which then watches the worker."""
        self.send_replies({REGISTRATION: Reply(os.getpid(), b"")})

    def send_replies(self, replies: Mapping[int, Reply]) -> None:
        """Send a batch's replies, by slot, as one message; block while the socket's buffer is full."""
        message = marshal.dumps({slot: tuple(reply) for slot, reply in replies.items()})
        slots = array("Q", replies).tobytes()[:MAX_INLINE_BYTES] if len(message) > MAX_INLINE_BYTES else b""
        try:
            send(self._reply_sender, slots, (message,))
        except OSError:  # no descriptor or memory for the file
            if not slots:
                raise
            for slot in replies:
                self.send_replies({slot: OUT_OF_RESOURCES})

    def receive_replies(self) -> dict[int, Reply]:
        """The replies of the next message, by slot; raise BlockingIOError if there is none."""
        try:
            message = receive(self.reply_receiver, socket.MSG_DONTWAIT)
        except LostError as error:
            return dict.fromkeys(array("Q", error.args[0]), OUT_OF_RESOURCES)
        return {slot: Reply(*reply) for slot, reply in marshal.loads(message).items()}  # noqa: S302 -- our own
