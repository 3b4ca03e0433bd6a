"""When the pieces of streamed answers came; ``load.pieces`` says what a piece is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
NOT_STREAMED, EVENTS, CHUNKS, READS = range(4)
UNITS = {EVENTS: "events", CHUNKS: "chunks", READS: "reads"}
"""What a piece is."""
MIXED = 1 / 3
"""Share of answers that stream, and of those that do not, from which on both are sorts of their own."""


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

    def streamed(self, good: Flags, body: Integers) -> Flags:
        """Which of the ``good`` answers stream: those of events, or of pieces that came at several times.

        Chunks of one read have one time: usually a whole answer, whose sender does not say its length, but an
        answer that streams may come in one read, too. So all answers in chunks or reads are taken as most of
        them are; where many are of either sort, as most of those to the same ``body`` (its index) are.
        """
        events = good & (self.count > 0) & (self.unit == EVENTS)
        others = good & (self.count > 0) & ~events
        spread_out = others & (self._picked(self._begin + self.count - 1) > self.first_s)
        number, streaming = int(others.sum()), int(spread_out.sum())
        most = np.full(len(body), 2 * streaming > number)
        if MIXED * number <= streaming <= (1 - MIXED) * number:
            answers, of_streams = (np.bincount(body, each) for each in (others, spread_out))
            most = (of_streams > answers / 2)[body]
        found: Flags = events | (others & most)
        return found

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

    def gaps_s(self, chosen: Flags) -> Floats:
        """Seconds between successive pieces of the ``chosen`` requests (inter-token latency, ITL)."""
        of = self.request
        gaps: Floats = np.diff(self.at)[(of[1:] == of[:-1]) & chosen[of[1:]]]
        return gaps

    @property
    def request(self) -> Integers:
        """The number of each piece's request."""
        return np.repeat(np.arange(len(self.count)), self.count)

    def weights(self, chosen: Flags) -> dict[str, Floats]:
        """What each piece counts for, by the name of what is counted, and 0 in requests not ``chosen``.

        Tokens are there only if the server says them for all chosen requests.
        """
        of = self.request
        inside = chosen[of].astype(float)
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

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Streams:
        """Of the fields as lists."""
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
