"""When the pieces of streamed answers came; ``load.pieces`` says what a piece is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
NOT_STREAMED, EVENTS, CHUNKS, READS = range(4)
UNITS = {EVENTS: "events", CHUNKS: "chunks", READS: "reads"}
"""What a piece is."""


@dataclass(frozen=True)
class Streams:
    """The pieces of all answers of a load, in the order of its requests.

    Attributes:
        unit: of each request's pieces; NOT_STREAMED for an answer with a length.
        count: number of each request's pieces.
        tokens: of each request's answer, as the server says; 0 where it does not.
        at: when each piece came, in seconds since its request was due; all pieces of the first request, then
            those of the second, and so on.
        size: bytes of each piece's content.
    """

    unit: Integers
    count: Integers
    tokens: Integers
    at: Floats
    size: Integers

    def stream(self, good: npt.NDArray[np.bool_]) -> bool:
        """Whether most of the ``good`` answers streamed: they came as events, or in pieces at several times.

        Chunks of one read have one time: a whole answer, whose sender does not say its length.
        """
        spread_out = self._picked(self._begin + self.count - 1) > self.first_s
        streamed = (self.count > 0) & ((self.unit == EVENTS) | spread_out)
        return bool(good.any() and streamed[good].mean() > 0.5)

    @property
    def _begin(self) -> Integers:
        return np.cumsum(self.count) - self.count

    def _picked(self, place: Integers) -> Floats:
        # Times at ``place``; NaN for requests without a piece.
        found = np.full(len(self.count), np.nan)
        some = self.count > 0
        found[some] = self.at[place[some]]
        return found

    @property
    def first_s(self) -> Floats:
        """Seconds until each request's first piece (time to first token, TTFT); NaN without one."""
        return self._picked(self._begin)

    @property
    def piece_s(self) -> Floats:
        """Mean seconds of each request's further pieces, or tokens if the server says how many (time per
        output token, TPOT); NaN without any."""
        further = np.where(self.tokens > 0, self.tokens, self.count) - 1
        seconds = self._picked(self._begin + self.count - 1) - self.first_s
        return np.where((further > 0) & (self.count > 1), seconds / np.maximum(further, 1), np.nan)

    def gaps_s(self, chosen: npt.NDArray[np.bool_]) -> Floats:
        """Seconds between successive pieces of the ``chosen`` requests (inter-token latency, ITL)."""
        of = self.request
        gaps: Floats = np.diff(self.at)[(of[1:] == of[:-1]) & chosen[of[1:]]]
        return gaps

    @property
    def request(self) -> Integers:
        """The number of each piece's request."""
        return np.repeat(np.arange(len(self.count)), self.count)

    def weights(self, chosen: npt.NDArray[np.bool_]) -> dict[str, Floats]:
        """What each piece counts for, by the name of what is counted, and 0 in requests not ``chosen``.

        Tokens are there only if the server says them for all chosen requests; nothing is, if some of those
        have no pieces.
        """
        of = self.request
        inside = chosen[of].astype(float)
        if not (self.count[chosen] > 0).all():
            return {}
        names = {UNITS[unit] for unit in set(self.unit[chosen].tolist())}
        found = {names.pop() if len(names) == 1 else "pieces": inside, "bytes": inside * self.size}
        if chosen.any() and (self.tokens[chosen] > 0).all():
            found["tokens"] = inside * (self.tokens / np.maximum(self.count, 1))[of]
        return found

    def reordered(self, order: Integers) -> Streams:
        """The same for requests in another order."""
        begin, count = self._begin[order], self.count[order]
        place = np.repeat(begin - (np.cumsum(count) - count), count) + np.arange(int(count.sum()))
        return Streams(self.unit[order], count, self.tokens[order], self.at[place], self.size[place])

    def to_json(self) -> dict[str, Any]:
        """All values as lists."""
        return {name: getattr(self, name).tolist() for name in STREAM_FIELDS}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Streams:
        """The reverse of ``to_json``."""
        kinds = {name: float if name == "at" else np.int64 for name in STREAM_FIELDS}
        return cls(**{name: np.array(content[name], dtype=kind) for name, kind in kinds.items()})


STREAM_FIELDS = tuple(field.name for field in fields(Streams))


def no_streams(requests: int) -> Streams:
    """Of as many requests, whose answers all have a length."""
    nothing = np.zeros(requests, dtype=np.int64)
    return Streams(nothing, nothing, nothing, np.zeros(0), np.zeros(0, dtype=np.int64))


def together(streams: Sequence[Streams]) -> Streams:
    """The pieces of several loads, one after another."""
    return Streams(
        **{name: np.concatenate([getattr(one, name) for one in streams]) for name in STREAM_FIELDS}
    )
