"""Which requests are in flight and who has each, in memory that all of the server's processes share.

A request keeps its slot from arrival to answer. The HTTP process releases one that has waited too
long: a worker looks before it works, and so never works in vain. When a worker dies, the slots that
it has claimed name the requests that died with it. Each cell is written by one process at a time, and
read and written in one piece.
"""

from __future__ import annotations

import multiprocessing
from collections import deque

NOBODY = 0


class Slots:
    """At most ``capacity`` requests in flight.

    A slot is a number that never comes again; its remainder by ``capacity`` is its place in the table.
    """

    def __init__(self, capacity: int) -> None:
        shared = multiprocessing.get_context("spawn")
        self._valid = shared.RawArray("Q", capacity)
        self._claimed_by = shared.RawArray("L", capacity)
        self._next = [place + capacity for place in range(capacity)]
        self._free = deque(range(capacity))

    @property
    def in_flight(self) -> int:
        """How many are in use."""
        return len(self._next) - len(self._free)

    @property
    def full(self) -> bool:
        """Whether all are in use."""
        return not self._free

    def acquire(self) -> int | None:
        """A slot for a new request, None when all are in use. Only the HTTP process calls this."""
        if not self._free:
            return None
        place = self._free.popleft()
        slot = self._next[place]
        self._next[place] = slot + len(self._next)
        self._claimed_by[place] = NOBODY
        self._valid[place] = slot
        return slot

    def release(self, slot: int) -> None:
        """Free the slot. Only the HTTP process calls this, once for each slot."""
        place = slot % len(self._next)
        self._valid[place] = 0
        self._free.append(place)

    def claim(self, slot: int, worker: int) -> bool:
        """Note that ``worker`` (any number but 0) works on a request; False if its slot was released."""
        place = slot % len(self._next)
        if self._valid[place] != slot:
            return False
        self._claimed_by[place] = worker
        return True

    def claimed_by(self, slot: int) -> int:
        """The worker that has the request, NOBODY while it waits."""
        worker: int = self._claimed_by[slot % len(self._next)]
        return worker
