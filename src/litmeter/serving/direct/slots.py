"""Slots of the requests in flight, in memory that all of the server's processes share.

A request holds its slot from arrival to answer. The HTTP process releases the slot of a request that has
timed out or whose client has disconnected; a worker claims a slot before it works on the request, and
skips the request if the slot has been released. When a worker dies, its claims tell which requests died
with it.

Each array element has one writer, and is read and written atomically; so a worker that is stopped within a
claim keeps nobody waiting, as it would with a lock. Each worker has a row of its own for its claims, with the
slot in it: a claim that comes too late is one of a slot that nobody asks about any more, and it overwrites no
other worker's. It is written before the worker looks whether the slot is still held, so that a worker that
goes on to the request, and may die of it, is known to have it.
"""

from __future__ import annotations

from collections import deque

from litmeter.serving.forkserver import WORKERS

UNCLAIMED = 0
"""Stands for the worker of a slot that no worker has claimed."""


class Slots:
    """Allocates slots for at most ``capacity`` requests in flight, which ``workers`` claim.

    A slot is a number that is never reused; modulo ``capacity`` it is the index in the shared arrays. So a
    message about an earlier request never matches a later one.
    """

    def __init__(self, capacity: int, workers: int) -> None:
        self._in_use = WORKERS.RawArray("Q", capacity)
        self._claims = [WORKERS.RawArray("Q", capacity) for _ in range(workers)]
        self._claimants = [WORKERS.RawArray("L", capacity) for _ in range(workers)]
        self._next_slots = [index + capacity for index in range(capacity)]
        self._free_indices = deque(range(capacity))

    @property
    def capacity(self) -> int:
        """Number of slots."""
        return len(self._next_slots)

    @property
    def in_flight(self) -> int:
        """Number of slots in use."""
        return len(self._next_slots) - len(self._free_indices)

    @property
    def full(self) -> bool:
        """Whether all slots are in use."""
        return not self._free_indices

    def acquire(self) -> int | None:
        """Allocate a slot, None if all are in use. Only the HTTP process calls this."""
        if not self._free_indices:
            return None
        index = self._free_indices.popleft()
        slot = self._next_slots[index]
        self._next_slots[index] = slot + len(self._next_slots)
        self._in_use[index] = slot
        return slot

    def release(self, slot: int) -> None:
        """Free ``slot``. Only the HTTP process calls this, once for each slot."""
        index = slot % len(self._next_slots)
        self._in_use[index] = 0
        self._free_indices.append(index)

    def claim(self, slot: int, worker: int, process: int) -> bool:
        """Record that a worker has the request; False if ``slot`` has been released.

        Args:
            worker: the worker's index.
            process: its process id.
        """
        index = slot % len(self._next_slots)
        self._claimants[worker][index] = process
        self._claims[worker][index] = slot
        return bool(self._in_use[index] == slot)

    def claimed_by(self, slot: int) -> int:
        """Process id of the worker that claimed ``slot``, UNCLAIMED while the request is queued."""
        index = slot % len(self._next_slots)
        for claims, claimants in zip(self._claims, self._claimants, strict=True):
            if claims[index] == slot:
                return int(claimants[index])
        return UNCLAIMED
