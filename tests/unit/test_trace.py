"""Recorded traffic: the formats of its files, what is wrong with others, and its stretches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from litmeter.errors import UsageError
from litmeter.load import Trace
from litmeter.load.trace import read_trace
from litmeter.measure.capacity import of_trace
from tests.support.load import plan

LOG = """\
127.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /apache_pb.gif HTTP/1.0" 200 2326 "http://x/" "Mozilla"
2001:db8::7 - - [10/Oct/2000:22:55:38 +0200] "POST /predict HTTP/1.1" 200 61 "-" "curl/8.5.0"
10.0.0.7 - a user [10/Oct/2000:13:55:36 -0700] "\\x16\\x03\\x01[" 400 157 "-" "-"
10.0.0.7 - - [10/Oct/2000:13:55:37 -0700] "GET / HTTP/1.1" 200 2326
"""
BURSTS = Trace(np.array([0.0, 0.1, 0.2, 5.0, 5.1, 5.2, 5.3, 8.0]), np.array([0, 1, 2, 0, 1, 2, 0, 1]))


def written(tmp_path: Path, text: str) -> Path:
    (path := tmp_path / "trace").write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "bodies"),
    [
        ("100.5\n100.5\n\n102\n", None),
        ("1005e-1 2\r\n100.5\t0\r\n102.0 1\r\n", [2, 0, 1]),
        ("100.5,2\n100.5, 0\n102,1", [2, 0, 1]),
    ],
)
def test_seconds_a_line_perhaps_with_a_body(tmp_path: Path, text: str, bodies: list[int] | None) -> None:
    trace = read_trace(written(tmp_path, text), bodies=3, seed=1)
    assert trace.due_s.tolist() == [0.0, 0.0, 1.5]
    assert bodies == (None if trace.bodies is None else trace.bodies.tolist())


def test_a_log_is_sorted_and_spread_within_its_seconds(tmp_path: Path) -> None:
    traces = [read_trace(written(tmp_path, LOG), bodies=1, seed=seed) for seed in (1, 1, 2)]
    assert traces[0].due_s.tolist() == traces[1].due_s.tolist() != traces[2].due_s.tolist()
    assert traces[0].bodies is None
    many = "".join(line + "\n" for line in LOG.splitlines() for _ in range(500))
    due_s = read_trace(written(tmp_path, many), bodies=1, seed=1).due_s
    assert (np.diff(due_s) >= 0).all()
    counts, _ = np.histogram(due_s, np.arange(0, 3.25, 0.25))
    assert counts == pytest.approx([250] * 4 + [125] * 8, rel=0.3)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1.5\n2.5\nthree\n", "line 3: expected seconds, as"),
        ("one\n", "line 1: expected seconds, seconds and the index of a body, or a log"),
        ("1\n\n2 0\n", "line 3: expected seconds, as"),
        ("1 0\n2\n", "line 2: expected seconds and the index of a body, as"),
        ("1 0\n2 -1\n", "line 2: expected seconds and the index of a body, as"),
        ("1 0\n2 3\n", "line 2: expected an index below 3"),
        ("2\n1\n", "line 2: expected a time"),
        ("1\nnan\n", "line 2: expected seconds"),
        ("1\n1e999\n", "line 2: expected seconds"),
        ("-1e999\n1\n", "line 1: expected"),
        ("1.2.3\n", "line 1: expected seconds"),
        (LOG + "no time\n", "line 5: expected a log"),
        (LOG.replace("10/Oct/2000:22", "32/Oct/2000:22"), "line 2: expected a log"),
        ("", "expected requests at two different times"),
        ("1\n1\n", "expected requests at two different times"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path: Path, text: str, problem: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        read_trace(path, bodies=3, seed=1)
    assert str(caught.value).startswith(f"{path}: {problem}")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_trace(tmp_path / "missing", bodies=1, seed=1)
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    with pytest.raises(UsageError, match="line 1: expected seconds"):
        read_trace(tmp_path / "binary", bodies=1, seed=1)


def test_a_trace_repeats_at_its_mean_rate_and_a_stretch_is_as_much_faster_as_it_is_told() -> None:
    due_s, bodies = BURSTS.stretch(4.9, 2.0, 1.0)
    assert due_s == pytest.approx([0.05, 0.1, 0.15, 0.2])
    assert bodies == (0, 1, 2, 0)
    assert BURSTS.period_s == pytest.approx(8.0 * 8 / 7)  # a mean gap lies between the last and the first
    begin_s, laps = -3.0, 5
    due_s, bodies = BURSTS.stretch(begin_s, 1.0, laps * BURSTS.period_s)
    assert len(due_s) == laps * 8
    assert (np.diff(due_s) >= 0).all()
    assert due_s[8:] == pytest.approx(np.array(due_s[:-8]) + BURSTS.period_s)
    assert np.bincount(bodies or ()).tolist() == [3 * laps, 3 * laps, 2 * laps]


@pytest.mark.parametrize("scale", [0.5, 8.0])
def test_probes_of_a_trace_have_its_requests_evenly_and_none_is_empty(scale: float) -> None:
    """A stretch counts alike, however many requests it has: the shares of each request add up to the same."""
    rng = np.random.default_rng(1)
    due_s = np.sort(np.concatenate([rng.uniform(0, 300, 900), rng.uniform(100, 110, 600), [1000.0]]))
    trace = Trace(due_s - due_s[0], np.arange(len(due_s)))
    counts = np.zeros(len(due_s))
    for number in range(4000):
        load = plan(9, rate_rps=scale * trace.rate_rps, warmup_s=0.7, min_s=4.0, repeat=number)
        probe = of_trace(load, trace)
        sent = zip(probe.due_s or (), probe.bodies or (), strict=True)
        inside = [body for due, body in sent if 0.7 <= due <= 4.7]
        assert inside
        counts[inside] += 1 / len(inside)
    means = [part.mean() for part in np.array_split(counts[:-1], 10)]
    assert means == pytest.approx(np.full(10, counts.mean()), rel=0.1)
