"""The record of one load: every request, and the edges of the measurement windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from litmeter.stats.stability import WINDOWS

OK, FAILED, TIMED_OUT = 0, 1, 2
"""Outcome of a request: answered with 200, answered otherwise or cut off, not answered in time."""
STATUS_NAMES = {OK: "ok", FAILED: "failed", TIMED_OUT: "timed out"}
REQUEST_FIELDS = ("user", "start", "sent", "end", "status", "code", "size", "body", "answer")
"""The arrays of a ``LoadRecord``, one element per request."""


@dataclass(frozen=True)
class LoadRecord:
    """Every request of one load: N users in a closed loop, or a rate in an open one.

    Times are seconds of the machine's monotonic clock. The arrays have one element per request, in
    the order in which the requests ended.

    Attributes:
        users: requests in flight at once; with a rate, at most.
        rate_rps: mean rate of an open loop's arrivals, None in a closed loop.
        window_edges: times at which windows begin and end; the last three windows are reported.
        user: number of the user that sent the request.
        start: when the request was due.
        sent: when it was sent; in a closed loop microseconds after ``start``.
        end: when its answer was complete, or it failed.
        status: OK, FAILED or TIMED_OUT.
        code: HTTP status, 0 without an answer.
        size: bytes of the answer's body.
        body: index of the request's body among the bodies.
        answer: the answer's body; empty above 64 KiB.
        cores: CPU use of the load generator in the reported windows, of the busiest one of several.
    """

    users: int
    rate_rps: float | None
    window_edges: npt.NDArray[np.float64]
    user: npt.NDArray[np.int64]
    start: npt.NDArray[np.float64]
    sent: npt.NDArray[np.float64]
    end: npt.NDArray[np.float64]
    status: npt.NDArray[np.int64]
    code: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    body: npt.NDArray[np.int64]
    answer: npt.NDArray[np.bytes_]
    cores: float = 0.0

    @property
    def window(self) -> tuple[float, float]:
        """Begin and end of the reported windows: the last three, or as many as there are."""
        edges = self.window_edges[-WINDOWS - 1 :]
        return float(edges[0]), float(edges[-1])

    @property
    def in_window(self) -> npt.NDArray[np.bool_]:
        """Which requests belong to the reported windows.

        In a closed loop, those that ended there. In an open loop, those that were due there: a choice by
        the end would leave out the slowest, whose answers come after the last window.
        """
        opened, closed = self.window
        time = self.end if self.rate_rps is None else self.start
        inside: npt.NDArray[np.bool_] = (time > opened) & (time <= closed)
        return inside
