"""What a search keeps: a stopped one goes on with it, and others do not disturb it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from litmeter.errors import StorageError
from litmeter.tune.record import Record, Round

WRITER = """
import sys
from itertools import count
from pathlib import Path
from litmeter.tune.record import Record, Round
record = Record(Path(sys.argv[1]), "here")
for number in count(len(record.rounds())):
    record.keep_round(Round({"a" * 20_000: number}, {}, {}, {}, 1.0))
    print(number, flush=True)
"""
"""Writes long rounds for ever, and says which are kept."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "samples/tune.jsonl"


def of_rate(rate: float) -> Round:
    return Round({"a": rate}, {"a": 10.0}, {"a": 300.0}, {"a": 0}, 2.5)


def rates(path: Path) -> list[float]:
    return [one.rates["a"] for one in Record(path, "here").rounds()]


def test_a_search_goes_on_with_the_rounds_and_costs_of_those_before_it(path: Path) -> None:
    first = Record(path, "here")
    for rate in (1.0, 2.0):
        first.keep_round(of_rate(rate))
    first.keep_cost("model", "full, timm's", {"1": 0.01})
    second = Record(path, "here")
    second.keep_round(of_rate(3.0))
    second.keep_cost("model", "full, timm's", {"1": 0.01, "4": 0.02})
    assert rates(path) == [1.0, 2.0, 3.0]
    assert Record(path, "here").costs("model") == {"full, timm's": {"1": 0.01, "4": 0.02}}
    assert second.costs("request") == {}


def test_another_machine_or_model_shares_nothing_but_the_file(path: Path) -> None:
    Record(path, "here").keep_round(of_rate(1.0))
    other = Record(path, "there")
    assert other.rounds() == []
    other.keep_round(of_rate(2.0))
    assert rates(path) == [1.0]


def test_half_a_line_at_the_end_is_removed(path: Path) -> None:
    Record(path, "here").keep_round(of_rate(1.0))
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole + whole[:size])
        assert rates(path) == [1.0]
        assert path.read_bytes() == whole
    Record(path, "here").keep_round(of_rate(2.0))
    assert rates(path) == [1.0, 2.0]


def test_a_writer_that_is_killed_loses_nothing_that_was_kept(path: Path) -> None:
    for _ in range(3):
        before = len(Record(path, "here").rounds())
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            said = [int(writer.stdout.readline()) for _ in range(20)]
            os.kill(writer.pid, signal.SIGKILL)
            said += [int(line) for line in writer.stdout]
        assert said[0] == before
        kept = Record(path, "here").rounds()
        assert [list(one.rates.values()) for one in kept] == [[number] for number in range(len(kept))]
        assert len(kept) > said[-1]


@pytest.mark.parametrize(
    "content",
    [b"SQLite format 3\0", b"{}\n", b'"signature"\n', b"\xff\n", b'{"signature": "here"}\n'],
)
def test_a_file_of_another_format_is_one_line_and_stays(path: Path, content: bytes) -> None:
    Record(path, "here").keep_round(of_rate(1.0))
    content = path.read_bytes() + content
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"tune\.jsonl: line 2 ") as caught:
        Record(path, "here")
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


def test_a_file_that_cannot_be_opened_is_one_line(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(StorageError, match=r"tune\.jsonl: cannot be read and written: Is a directory$"):
        Record(path, "here")
