"""What a search has measured, in a file of JSON lines: one that was stopped goes on with it.

Each measurement is a line, written as soon as it is made, below a signature of all that it depends on: one
file holds those of many machines and models. Who is killed while writing leaves part of a line at the end,
which the next search removes.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from litmeter.errors import StorageError
from litmeter.system.files import append_line

START = b'{"signature": "'
"""Of each line."""


@dataclass(frozen=True)
class Round:
    """One round of a race; all mappings are by configuration.

    Attributes:
        rates: requests per second; 0 where it did not answer.
        p95_ms: of those that answered.
        memory_mib: of the server's processes after its turn.
        failed: requests that were refused, failed or timed out.
        seconds: that the round took.
    """

    rates: Mapping[str, float]
    p95_ms: Mapping[str, float]
    memory_mib: Mapping[str, float]
    failed: Mapping[str, int]
    seconds: float


class Record:
    """The measurements of one signature.

    Args:
        path: of the file, which may be missing.
        signature: hash of all that the measurements depend on, this machine among it.

    Raises:
        StorageError: the file cannot be read or written, or is none of these.
    """

    def __init__(self, path: Path, signature: str) -> None:
        self._path, self._signature = path, signature
        self._costs: dict[str, dict[str, Any]] = defaultdict(dict)
        self._rounds: list[Round] = []
        try:
            with path.open("r+b") as file:
                content = file.read()
                self._read(content)
                file.truncate(content.rfind(b"\n") + 1)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StorageError(f"{path}: cannot be read and written: {error.strerror}") from error

    def costs(self, kind: str) -> dict[str, Any]:
        """What was kept of one kind, by key."""
        return dict(self._costs[kind])

    def rounds(self) -> list[Round]:
        """All rounds, of this search and of earlier ones, in their order."""
        return list(self._rounds)

    def keep_cost(self, kind: str, key: str, value: Any) -> None:
        """Keep a cost; ``value`` as JSON has it."""
        self._append({"kind": kind, "key": key, "value": value})
        self._costs[kind][key] = value

    def keep_round(self, one: Round) -> None:
        """Keep a round."""
        self._append({"round": asdict(one)})
        self._rounds.append(one)

    def _append(self, measured: Mapping[str, Any]) -> None:
        append_line(self._path, json.dumps({"signature": self._signature, **measured}))

    def _read(self, content: bytes) -> None:
        *lines, partial = content.split(b"\n")
        for number, line in enumerate(lines, 1):
            self._read_line(line, number)
        if not START.startswith(partial[: len(START)]):
            raise self._malformed(len(lines) + 1)

    def _read_line(self, line: bytes, number: int) -> None:
        try:
            one = json.loads(line)
            if one["signature"] != self._signature:
                return
            if "round" in one:
                self._rounds.append(Round(**one["round"]))
            else:
                self._costs[one["kind"]][one["key"]] = one["value"]
        except (KeyError, TypeError, ValueError) as error:
            raise self._malformed(number) from error

    def _malformed(self, number: int) -> StorageError:
        what = f"line {number} is none of a search's record"
        return StorageError(f"{self._path}: {what}; remove the file to begin anew")
