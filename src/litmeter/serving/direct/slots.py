"""Slots of the requests in flight, in memory that all of the server's processes share.

A request holds its slot from arrival to answer. The HTTP process releases the slot of a request that has
timed out or whose client has disconnected; a worker claims a slot before it works on the request, and
skips the request if the slot has been released. When a worker dies, its claims tell which requests died
with it. Each array element has one writer at a time, and is read and written atomically.
"""

from __future__ import annotations

from collections import deque

from litmeter.serving.forkserver import WORKERS

UNCLAIMED = 0
"""Stands for the worker of a slot that no worker has claimed."""


class Slots:
    """Allocates slots for at most ``capacity`` requests in flight.

    A slot is a number that is never reused; modulo ``capacity`` it is the index in the shared arrays. So a
    message about an earlier request never matches a later one.
    """

    def __init__(self, capacity: int) -> None:
        self._in_use = WORKERS.RawArray("Q", capacity)
        self._claimed_by = WORKERS.RawArray("L", capacity)
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
        self._claimed_by[index] = UNCLAIMED
        self._in_use[index] = slot
        return slot

    def release(self, slot: int) -> None:
        """Free ``slot``. Only the HTTP process calls this, once for each slot."""
        index = slot % len(self._next_slots)
        self._in_use[index] = 0
        self._free_indices.append(index)

    def claim(self, slot: int, worker: int) -> bool:
        """Record that a worker has the request; False if ``slot`` has been released.

        Args:
            worker: the worker's process id.
        """
        index = slot % len(self._next_slots)
        if self._in_use[index] != slot:
            return False
        self._claimed_by[index] = worker
        return True

    def claimed_by(self, slot: int) -> int:
        """Process id of the worker that claimed ``slot``, UNCLAIMED while the request is queued."""
        worker: int = self._claimed_by[slot % len(self._next_slots)]
        return worker
