"""The record of a level while it runs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from litmeter.stats.records import FAILED, OK, TIMED_OUT, fewest_answers, steady, window_means

MAX_ANSWER_BYTES = 65_536
"""Longer answers are counted, but not stored."""


class Recorder:
    """Collects the requests of all users of one level.

    Attributes:
        good: number of requests that were answered with 200.
        in_flight_since: by user, when its present request was due; infinite while it has none.
        answered: by user, whether its first request has ended.
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
        """Record one request; return whether it was answered with 200."""
        if code == 200:
            status = OK
        elif code == 0 and end - sent >= self._timeout_s:
            status = TIMED_OUT
        else:
            status = FAILED
        self._rows.append((user, due, sent, end, status, code, len(content), body))
        self._answers.append(content if len(content) <= MAX_ANSWER_BYTES else b"")
        self.good += status == OK
        self.answered[user] = True
        return status == OK

    @property
    def ended(self) -> int:
        """Number of requests that have ended."""
        return len(self._rows)

    @property
    def sent(self) -> int:
        """Number of requests that have ended or are in flight."""
        return self.ended + sum(since < math.inf for since in self.in_flight_since)

    def arrays(self) -> dict[str, Any]:
        """The recorded requests as one array per field."""
        user, start, sent, end, status, code, size, body = (
            np.array(self._rows, dtype=np.float64).reshape(-1, 8).T
        )
        numbers = {"user": user, "status": status, "code": code, "size": size, "body": body}
        integers = {name: values.astype(np.int64) for name, values in numbers.items()}
        times = {"start": start, "sent": sent, "end": end}
        return integers | times | {"answer": np.array(self._answers, dtype=np.bytes_)}

    def steady(self, edges: list[float]) -> bool:
        """Whether the windows between ``edges``, whose requests have all ended, agree."""
        good = np.array([(start, end) for _, start, _, end, status, *_ in self._rows if status == OK])
        if len(good) == 0:
            return False
        start, end = good.T
        windows = np.array(edges)
        return steady(*window_means(start, end, windows), fewest_answers(end, windows))
