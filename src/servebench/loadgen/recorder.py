"""What a level's users have seen so far."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from servebench.stats.records import FAILED, OK, TIMED_OUT
from servebench.stats.stability import steady, window_means

KEPT_BYTES = 65_536
"""A longer answer is counted and not kept."""


class Recorder:
    """All requests of one level.

    Attributes:
        good: requests that were answered well.
        in_flight_since: by user, when its present request was due; infinite while it has none.
        answered: by user, whether it has had an answer, or waited its full time for one.
    """

    def __init__(self, users: int, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._rows: list[tuple[int, float, float, float, int, int, int, int]] = []
        self._answers: list[bytes] = []
        self.good = 0
        self.in_flight_since = [math.inf] * users
        self.answered = [False] * users

    def add(
        self, user: int, body: int, due: float, sent: float, end: float, code: int, content: bytes
    ) -> bool:
        """Record one request; whether it was answered well."""
        if code == 200:
            status = OK
        elif code == 0 and end - sent >= self._timeout_s:
            status = TIMED_OUT
        else:
            status = FAILED
        self._rows.append((user, due, sent, end, status, code, len(content), body))
        self._answers.append(content if len(content) <= KEPT_BYTES else b"")
        self.good += status == OK
        self.answered[user] = True
        return status == OK

    def arrays(self) -> dict[str, Any]:
        """The record as one array per field."""
        user, start, sent, end, status, code, size, body = np.array(self._rows).T
        counts = {"user": user, "status": status, "code": code, "size": size, "body": body}
        whole = {name: values.astype(np.int64) for name, values in counts.items()}
        times = {"start": start, "sent": sent, "end": end}
        return whole | times | {"answer": np.array(self._answers, dtype=np.bytes_)}

    def steady(self, edges: list[float]) -> bool:
        """Whether the windows between ``edges``, whose requests have all ended, agree."""
        record = np.array([(start, end) for _, start, _, end, status, *_ in self._rows if status == OK])
        if len(record) == 0:
            return False
        return steady(*window_means(record[:, 0], record[:, 1], np.array(edges)))
