"""The log of turns: the one record of what was measured, from which all figures can be computed again.

While a stage measures, each turn is a line of JSON in a file outside of DVC's outputs, whose name has a hash
of all that the turns depend on. A killed stage repeats its decisions from that file, and goes on where it
was. A finished log becomes plots/turns/STAGE.csv, a row per turn, and samples/STAGE.csv, a row per request.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from litmeter.errors import StorageError
from litmeter.measure.figures import StreamTimes, latencies_ms, stream_times_ms
from litmeter.measure.rows import TurnRow
from litmeter.measure.turn import Answer, LeftOut, MakeReady, Ready, Sample, Turn
from litmeter.stats.records import OK, STATUS_NAMES, Floats, LoadRecord
from litmeter.stats.streams import CHUNKS, EVENTS, Streams
from litmeter.system.files import append_line, write_csv, write_rows, write_text

UNFINISHED = Path("samples/unfinished")
SAMPLE_FIELDS = ("turn", "user", "start_s", "latency_ms", "measured", "status", "code", "bytes", "body")
"""Columns of samples/STAGE.csv; ``start_s`` counts from the begin of the turn's measured windows."""
STREAM_COLUMNS = ("first_ms", "piece_ms", "pieces", "tokens")
"""Further columns where answers stream, see ``stats.streams``."""


class Log:
    """The samples of one stage or command, in their order.

    Attributes:
        samples: the samples of all turns, without the answers' bodies.
        left_out: why a subject was left out, by its name.
        reached_s: seconds from the log's begin to its last entry.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Read an unfinished log; without ``path`` the log is in memory alone."""
        self.path = path
        self.samples: list[Sample] = []
        self.left_out: dict[str, str] = {}
        self.reached_s = 0.0
        self._lines = read_lines(path) if path is not None and path.exists() else []  # of a stopped run
        self._repeated = 0  # of these

    @property
    def rows(self) -> list[TurnRow]:
        """The row of each turn."""
        return [sample.row for sample in self.samples]

    def latencies_ms(self) -> dict[int, Floats]:
        """Latencies of the good answers in the measured windows, by number of the turn."""
        return {one.row.turn: latencies_ms(one.record) for one in self.samples if one.record is not None}

    def stream_times_ms(self) -> dict[int, StreamTimes]:
        """Times of the pieces of streamed answers, by number of the turn; empty where none streams."""
        times = {one.row.turn: stream_times_ms(one.record) for one in self.samples if one.record is not None}
        return {turn: one for turn, one in times.items() if one}

    def first_ms(self) -> dict[int, Floats]:
        """Times until the first piece, or, of subjects that do not stream, the end, as ``latencies_ms``."""
        firsts = {turn: times["first"] for turn, times in self.stream_times_ms().items()}
        stream = {row.subject for row in self.rows if row.turn in firsts}
        whole = {row.turn for row in self.rows if row.subject not in stream}
        return {turn: ms for turn, ms in self.latencies_ms().items() if turn in whole} | firsts

    def short_answers(self, reference: str) -> dict[int, int]:
        """Good answers with fewer events or chunks than the reference's to the same body, by turn."""
        longest: dict[int, int] = {}
        counts: dict[int, list[tuple[int, int]]] = {}
        for sample in self.samples:
            if (record := sample.record) is None or record.streams is None:
                continue
            chosen = (record.status == OK) & np.isin(record.streams.unit, (EVENTS, CHUNKS))
            counted = zip(record.body[chosen].tolist(), record.streams.count[chosen].tolist(), strict=True)
            counts[sample.row.turn] = list(counted)
            if sample.row.subject == reference:
                for body, count in counts[sample.row.turn]:
                    longest[body] = max(count, longest.get(body, 0))
        return {
            turn: sum(count < longest.get(body, 0) for body, count in own) for turn, own in counts.items()
        }

    def repeated(self, asked: Turn | MakeReady) -> Answer | None:
        """The stopped run's answer to the same request; None if it must be measured.

        If the request differs from the stopped run's, the rest of that log is dropped.
        """
        if self._repeated == len(self._lines):
            return None
        line = self._lines[self._repeated]
        if line["asked"] != _asked_line(asked):
            del self._lines[self._repeated :]
            assert self.path is not None
            write_text(self.path, "".join(f"{json.dumps(kept)}\n" for kept in self._lines))
            return None
        self._repeated += 1
        answer = _read_answer(asked, line)
        self._keep(answer)
        return answer

    def add(self, asked: Turn | MakeReady, answer: Answer) -> None:
        """Keep what was measured; raise StorageError if the unfinished log cannot be written."""
        self._keep(answer)
        if self.path is not None:
            line = {"asked": _asked_line(asked), **_answer_line(answer)}
            append_line(self.path, json.dumps(line, default=np.ndarray.tolist))

    def _keep(self, answer: Answer) -> None:
        if isinstance(answer, Sample):
            if answer.record is not None and answer.record.answers:
                answer = replace(answer, record=replace(answer.record, answers=()))
            self.samples.append(answer)
        if isinstance(answer, LeftOut) and not answer.takes_others:
            self.left_out[answer.subject] = answer.reason
        self.reached_s = answer.at_s if isinstance(answer, Ready) else answer.ended_s

    def write(self, table: Path, samples: Path) -> None:
        """Write the row of each turn, and of each request."""
        write_rows(table, TurnRow, self.rows)
        rows = [row for sample in self.samples for row in request_rows(sample)]
        streams = any(sample.record and sample.record.streams for sample in self.samples)
        write_csv(samples, rows, (*SAMPLE_FIELDS, *(STREAM_COLUMNS if streams else ())))

    def remove_unfinished(self) -> None:
        """Remove all unfinished logs of the stage, once it is done."""
        if self.path is not None:
            for path in self.path.parent.glob(f"{self.path.name.split('-')[0]}-*.jsonl"):
                path.unlink(missing_ok=True)


def unfinished_log(stage: str, key: str) -> Log:
    """The log of a stage that may have been stopped; ``key``: hash of all that its turns depend on."""
    return Log(UNFINISHED / f"{stage}-{key}.jsonl")


def _asked_line(asked: Turn | MakeReady) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(asdict(asked)))  # tuples are lists there
    for shown in ("note", "end_s"):
        found.pop(shown, None)
    return found


def _answer_line(answer: Answer) -> dict[str, Any]:
    if isinstance(answer, Ready):
        return asdict(answer)
    if isinstance(answer, LeftOut):
        return {"left_out": asdict(answer)}
    line: dict[str, Any] = {"row": asdict(answer.row)}
    if answer.record is not None:
        # In full: a schedule decides again by these samples.
        line["record"] = dict(vars(answer.record))
        del line["record"]["answers"]
        if streams := line["record"].pop("streams"):
            line["streams"] = vars(streams)
    return line


def _read_answer(asked: Turn | MakeReady, line: dict[str, Any]) -> Answer:
    if isinstance(asked, MakeReady):
        return Ready(tuple(line["names"]), line["at_s"], line["ready_s"])
    if "left_out" in line:
        return LeftOut(**line["left_out"])
    record = None
    if kept := line.get("record"):
        found: dict[str, Any] = {key: np.array(v) if isinstance(v, list) else v for key, v in kept.items()}
        if streams := line.get("streams"):
            found["streams"] = Streams.from_json(streams)
        record = LoadRecord(**found)
    return Sample(asked, TurnRow(**line["row"]), record)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of an unfinished log.

    A killed process may have written part of a last line: the part is removed from the file, too, as lines
    will be added. Raise StorageError if the file cannot be read or written, or is no log.
    """
    try:
        *lines, part = path.read_text(encoding="utf-8").split("\n")
        if part:
            write_text(path, "".join(f"{line}\n" for line in lines))
        return [json.loads(line) for line in lines]
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise StorageError(f"{path}: not a log of turns; remove it to begin anew") from error


def request_rows(sample: Sample) -> Iterator[dict[str, Any]]:
    """A row for each request of a turn."""
    if (record := sample.record) is None:
        return
    opened, closed = record.window
    columns = (record.user, record.start, record.end, record.status, record.code, record.size, record.body)
    streams = list(_stream_values(record.streams)) if record.streams else [{}] * len(record.user)
    for stream, user, start, end, status, code, size, body in zip(
        streams, *(column.tolist() for column in columns), strict=True
    ):
        times = (round(start - opened, 6), round(1000 * (end - start), 3), opened < end <= closed)
        values = (sample.row.turn, user, *times, STATUS_NAMES[status], code, size, body)
        yield dict(zip(SAMPLE_FIELDS, values, strict=True)) | stream


def _stream_values(streams: Streams) -> Iterator[dict[str, Any]]:
    """The values of STREAM_COLUMNS of each request; empty for what is not known."""
    first_ms, piece_ms = (np.round(1000 * each, 3).tolist() for each in (streams.first_s, streams.piece_s))
    for first, piece, count, tokens in zip(
        first_ms, piece_ms, streams.count.tolist(), streams.tokens.tolist(), strict=True
    ):
        times = ("" if math.isnan(value) else value for value in (first, piece))
        yield dict(zip(STREAM_COLUMNS, (*times, count or "", tokens or ""), strict=True))
