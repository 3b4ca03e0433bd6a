"""Which requests are under way and who has each, in memory that all of the server's processes share.

A request keeps its ticket from arrival to answer. The HTTP process withdraws one that has waited too
long: a worker looks before it works, and so never works in vain. When a worker dies, the tickets that
it has taken name the requests that died with it. Each cell is written by one process at a time, and
read and written in one piece.
"""

from __future__ import annotations

import multiprocessing
from collections import deque

NOBODY = 0


class Tickets:
    """At most ``places`` requests under way.

    A ticket is a number that never comes again; its remainder by ``places`` is its place in the table.
    """

    def __init__(self, places: int) -> None:
        shared = multiprocessing.get_context("spawn")
        self._valid = shared.RawArray("Q", places)
        self._taken_by = shared.RawArray("L", places)
        self._next = [place + places for place in range(places)]
        self._free = deque(range(places))

    @property
    def under_way(self) -> int:
        """How many have been issued and not withdrawn."""
        return len(self._next) - len(self._free)

    @property
    def full(self) -> bool:
        """Whether all places are taken."""
        return not self._free

    def issue(self) -> int | None:
        """A new ticket, None when all places are taken. Only the HTTP process calls this."""
        if not self._free:
            return None
        place = self._free.popleft()
        ticket = self._next[place]
        self._next[place] = ticket + len(self._next)
        self._taken_by[place] = NOBODY
        self._valid[place] = ticket
        return ticket

    def withdraw(self, ticket: int) -> None:
        """Free the ticket's place. Only the HTTP process calls this, once for each ticket."""
        place = ticket % len(self._next)
        self._valid[place] = 0
        self._free.append(place)

    def take(self, ticket: int, worker: int) -> bool:
        """Note that ``worker`` (any number but 0) works on a request; False if it was withdrawn."""
        place = ticket % len(self._next)
        if self._valid[place] != ticket:
            return False
        self._taken_by[place] = worker
        return True

    def taken_by(self, ticket: int) -> int:
        """The worker that has the request, NOBODY while it waits."""
        worker: int = self._taken_by[ticket % len(self._next)]
        return worker
