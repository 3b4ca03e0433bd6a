"""Recorded traffic: arrival times of requests, and perhaps their bodies."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from litmeter.errors import UsageError
from litmeter.stats.records import Floats


@dataclass(frozen=True)
class Trace:
    """Two or more recorded requests, not all at the same time.

    Attributes:
        due_s: arrival times, seconds since the first request, ascending.
        bodies: index of each request's body, if known.
    """

    due_s: Floats
    bodies: npt.NDArray[np.int64] | None = None

    @property
    def period_s(self) -> float:
        """Period with which the trace repeats: from the first request to the last, plus the mean gap."""
        return float(self.due_s[-1]) * len(self.due_s) / (len(self.due_s) - 1)

    @property
    def rate_rps(self) -> float:
        """Mean rate."""
        return len(self.due_s) / self.period_s

    def stretch(
        self, begin_s: float, scale: float, seconds: float
    ) -> tuple[tuple[float, ...], tuple[int, ...] | None]:
        """The trace from ``begin_s`` on, played for ``seconds`` at ``scale`` times its rate.

        Return due times, seconds from ``begin_s``, and indices of bodies, if known. The trace repeats before
        its begin and after its end.
        """
        first, end = self._number_before(begin_s), self._number_before(begin_s + scale * seconds)
        repeats, requests = np.divmod(np.arange(first, end), len(self.due_s))
        due_s = (self.due_s[requests] + repeats * self.period_s - begin_s) / scale
        bodies = None if self.bodies is None else tuple(self.bodies[requests].tolist())
        return tuple(due_s.tolist()), bodies

    def _number_before(self, time_s: float) -> int:
        repeats, rest_s = divmod(time_s, self.period_s)
        return int(repeats) * len(self.due_s) + int(np.searchsorted(self.due_s, rest_s))


@lru_cache
def _log_seconds(text: str) -> float:
    return datetime.strptime(text, "%d/%b/%Y:%H:%M:%S %z").timestamp()


class _Format(NamedTuple):
    """A file format: what its lines hold, and how to read a time and perhaps a body's index from a line."""

    content: str
    pattern: re.Pattern[str]
    seconds: Callable[[str], float] = float

    def read(self, line: str) -> tuple[float, int]:
        """A line's time in seconds and body index (0 without any); raise ValueError for any other line."""
        with suppress(ValueError):
            if (match := self.pattern.match(line)) and abs(time_s := self.seconds(match[1])) < math.inf:
                return time_s, int(match[2] if match.re.groups > 1 else 0)
        raise ValueError(f"{self.content}, as in the first line")


_NUMBER = r"(-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)"
_STAMPS = _Format("seconds", re.compile(f"{_NUMBER}$", re.ASCII))
_BODIES = _Format("seconds and the index of a body", re.compile(rf"{_NUMBER}(?:\s*,\s*|\s+)(\d+)$", re.ASCII))
_LOG = _Format(
    "a log with times like [10/Oct/2000:13:55:36 -0700]",
    re.compile(r'.*?\[(\d\d/\w{3}/\d{4}(?::\d\d){3} [-+]\d{4})\] "', re.ASCII),
    _log_seconds,
)


def _format_of(line: str) -> _Format:
    for form in (_STAMPS, _BODIES, _LOG):
        if form.pattern.match(line):
            return form
    raise ValueError(f"{_STAMPS.content}, {_BODIES.content}, or {_LOG.content}")


def read_trace(path: Path, bodies: int, seed: int) -> Trace:
    """The trace in a file: ascending seconds, one per line, perhaps with a body's index; or an access log.

    Logs have the format "combined" or "common" of nginx and Apache. Log times are whole seconds: requests are
    spread at random within their second, and sorted, as servers log a request at its end.

    Args:
        bodies: number of bodies.
        seed: of the random spread.

    Raises:
        UsageError: the file cannot be read, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    times, indices, form = list[float](), list[int](), None
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            form = form or _format_of(line.strip())
            time_s, index = form.read(line.strip())
            if times and time_s < times[-1] and form is not _LOG:
                raise ValueError("a time that is not before the last one")
            if index >= bodies:
                raise ValueError(f"an index below {bodies}, the number of bodies")
        except ValueError as error:
            raise UsageError(f"{path}: line {number}: expected {error}, got {line[:60]!r}") from None
        times.append(time_s)
        indices.append(index)
    due_s = np.array(times)
    if form is _LOG:
        due_s = np.sort(due_s + np.random.default_rng(seed).random(len(due_s)))
    if len(due_s) < 2 or due_s[0] == due_s[-1]:
        raise UsageError(f"{path}: expected requests at two different times at least")
    return Trace(due_s - due_s[0], np.array(indices) if form is _BODIES else None)
