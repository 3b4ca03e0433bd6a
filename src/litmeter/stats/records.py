"""The record of one load, its windows, and the objective; without scipy, for a quick start.

A level ends when its last windows agree, by the rule of Triton's perf_analyzer (docs/inference_load_modes and
measurement stabilisation): over the last three windows, throughput and latency stay within 10% of their mean.
Windows of fewer than 100 answers vary more even on a steady server; their tolerance is the relative standard
deviation of a Poisson count.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from litmeter.stats.streams import Streams

Floats = npt.NDArray[np.float64]

BLOCKS = 10
"""Equal parts of a window; their spread gives the interval of the window's rate or percentile."""


def joined(arrays: Iterable[Floats]) -> Floats:
    """All values of zero or more arrays."""
    return np.concatenate([np.array([]), *arrays])


def work_done(start: Floats, end: Floats, opened: float, closed: float) -> float:
    """Units of work (requests, batches) done in a window; work across an edge counts in proportion.

    A batch's answers end together: counting the answers inside would err by up to a batch at each edge.
    """
    inside = np.minimum(end, closed) - np.maximum(start, opened)
    return float(np.sum(np.clip(inside, 0.0, None) / (end - start)))


def block_rates(start: Floats, end: Floats, opened: float, closed: float) -> Floats:
    """Units of work per second in each of BLOCKS equal parts of a window."""
    return _rates(start, end, np.linspace(opened, closed, BLOCKS + 1))


def _rates(start: Floats, end: Floats, edges: Floats) -> Floats:
    pairs = itertools.pairwise(edges)
    return np.array([work_done(start, end, low, high) / (high - low) for low, high in pairs])


WINDOWS = 3
"""Number of windows that must agree, and are reported together."""
TOLERANCE = 0.1
"""Largest relative deviation from the mean, in windows of 100 answers or more."""


def steady(rates: Floats, latencies: Floats, answers: int) -> bool:
    """Whether the windows' rates and latencies are near their means; each window has ``answers`` or more."""
    tolerance = max(TOLERANCE, 1 / math.sqrt(max(answers, 1)))
    return bool(all(spread(values) <= tolerance for values in (rates, latencies)))


def spread(values: Floats) -> float:
    """Largest relative deviation from the mean; infinite if a window has no value."""
    mean = float(values.mean())
    if not np.isfinite(mean) or mean <= 0:
        return float("inf")
    return float(np.abs(values - mean).max()) / mean


def window_means(start: Floats, end: Floats, edges: Floats) -> tuple[Floats, Floats, int]:
    """Rate (1/s) and mean latency (s) of requests in each window, and how many ended in the emptiest; the
    latency is NaN if none ended there."""
    ended = [(end > low) & (end <= high) for low, high in itertools.pairwise(edges)]
    latencies = [(end[mask] - start[mask]).mean() if mask.any() else float("nan") for mask in ended]
    return _rates(start, end, edges), np.array(latencies), int(np.histogram(end, edges)[0].min())


OK, FAILED, TIMED_OUT = 0, 1, 2
"""Outcome of a request: status 200; another status, a lost connection, a stream without a piece or that says
it failed; no answer in time."""
STATUS_NAMES = {OK: "ok", FAILED: "failed", TIMED_OUT: "timed out"}
REQUEST_FIELDS = ("user", "start", "sent", "end", "status", "code", "size", "body")
"""The arrays of a ``LoadRecord``, one element per request."""


@dataclass(frozen=True)
class LoadRecord:
    """All requests of one load, in the order of their ends; times are seconds of the monotonic clock.

    Attributes:
        users: number of requests in flight; in an open loop, the most.
        rate_rps: mean rate of an open loop; None: a closed loop.
        window_edges: begin and end times of windows; the last three windows are reported.
        start, sent: when the request was due, and when it was sent; microseconds apart in a closed loop.
        end: when the answer was complete, or the request failed.
        status, code: OK, FAILED or TIMED_OUT; HTTP status, 0 without an answer.
        size: bytes of the answer's body.
        body: index of the request's body among the bodies.
        cores: CPU cores used by the load generator, or the busiest of several, in the reported windows.
        answers: the answers' bodies, if the plan keeps them.
        streams: the pieces of answers without a length; None if there is none.
        stalled: number of good answers that ended a delayed acknowledgement, 40 ms, after their heads.
        unsent: number of further requests that the load generator could not send.
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
    cores: float = 0.0
    answers: Sequence[bytes] = ()
    streams: Streams | None = None
    stalled: int = 0
    unsent: int = 0

    @property
    def window(self) -> tuple[float, float]:
        """Begin and end of the reported windows: the last three, or all."""
        edges = self.window_edges[-WINDOWS - 1 :]
        return float(edges[0]), float(edges[-1])

    @property
    def due_rps(self) -> float:
        """Due requests per second in the reported windows of an open loop."""
        opened, closed = self.window
        return float(self.in_window.sum()) / (closed - opened)

    @property
    def in_window(self) -> npt.NDArray[np.bool_]:
        """Which requests belong to the reported windows: by their end in a closed loop, else by due time.

        In an open loop a choice by the end would omit the slowest requests, which end after the last window.
        """
        opened, closed = self.window
        time = self.end if self.rate_rps is None else self.start
        return (time > opened) & (time <= closed)


@dataclass(frozen=True)
class Limits:
    """How long a request may take, in milliseconds; None: no limit.

    Attributes:
        slo_ms: for the whole answer.
        first_ms: until the first piece of an answer that streams; of any other answer, for all of it.
        piece_ms: for each further piece, or token, in the mean of the answer.
    """

    slo_ms: float | None = None
    first_ms: float | None = None
    piece_ms: float | None = None

    @property
    def text(self) -> str:
        """All limits in words, as "within 100 ms"."""
        texts = {
            "within {:g} ms": self.slo_ms,
            "with the first piece within {:g} ms": self.first_ms,
            "with {:g} ms per further piece": self.piece_ms,
        }
        return " and ".join(text.format(limit) for text, limit in texts.items() if limit is not None)

    def missed(self, record: LoadRecord, *, since_sent: bool = False) -> npt.NDArray[np.bool_]:
        """Which requests failed, timed out, or took longer, from when they were due, or were sent."""
        late_s = record.sent - record.start if since_sent else np.zeros(len(record.start))
        whole_s = record.end - record.start
        first_s, piece_s = whole_s, np.full(len(whole_s), np.nan)
        if (streams := record.streams) is not None:
            first_s, piece_s = np.where(streams.count > 0, streams.first_s, whole_s), streams.piece_s
        missed: npt.NDArray[np.bool_] = record.status != OK
        for seconds, limit in (
            (whole_s - late_s, self.slo_ms),
            (first_s - late_s, self.first_ms),
            (piece_s, self.piece_ms),
        ):
            if limit is not None:
                missed = missed | (1000 * seconds > limit)
        return missed


def late_share(record: LoadRecord, limits: Limits) -> float | None:
    """Share of misses in the reported windows; None without requests."""
    inside = record.in_window
    return float(limits.missed(record)[inside].mean()) if inside.any() else None
