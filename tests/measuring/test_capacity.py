"""The capacity of a real server of known service times."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from litmeter.cli.main import main
from litmeter.load import Trace
from litmeter.load.stub import running_stub
from tests.support.capacity import capacity_of
from tests.support.queues import Queue, times_a_trace


def test_a_known_server_has_its_known_capacity() -> None:
    """Two slots of 20 ms: at 78.25 requests/s 5% of them take more than 80 ms, by a long simulation.

    Simulated searches of 30 s find 93 to 111% of it.
    """
    with running_stub(0.02, 2) as stub:
        result = capacity_of(stub, slo_ms=80.0, max_s=30.0)
    found = result.metrics
    assert found.status in ("resolved", "unresolved"), found
    assert found.capacity_rps == pytest.approx(78.25, rel=0.2)
    assert found.low_rps < found.capacity_rps < found.high_rps
    assert found.peak_rps == pytest.approx(100.0, rel=0.1)
    assert found.seconds < 35
    assert result.curve is not None


def test_a_known_server_takes_as_many_times_a_trace_as_a_simulation_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half a second of bursts in every five, sent with two bodies in turn."""
    queue = Queue("two slots", 2, 0.02, False, 0.1, math.nan)
    rng = np.random.default_rng(3)
    burst = [rng.uniform(begin, begin + 0.5, 30) for begin in range(0, 60, 5)]
    due_s = np.sort(np.concatenate([rng.uniform(0.0, 60.0, 1200), *burst]))
    lines = (f"{time_s:.4f} {number % 2}\n" for number, time_s in enumerate(due_s))
    (trace := tmp_path / "trace").write_text("".join(lines))
    (body := tmp_path / "body").write_text("{}")
    given = ["--body", str(body), "--body", str(body), "--trace", str(trace)]
    with running_stub(queue.service_s, queue.slots) as stub:
        main(["capacity", "--url", stub.url, *given, "--slo-ms", "100", "--seconds", "30"])
    text = " ".join(capsys.readouterr().out.split())
    found = re.search(
        r"([\d.]+) times the trace \(([\d.]+) to ([\d.]+)\), whose mean is 26\.\d a second", text
    )
    assert found, text
    expected = times_a_trace(queue, Trace(due_s - due_s[0]))
    times, low, high = map(float, found.groups())
    assert times == pytest.approx(expected, rel=0.35)  # simulated searches: 0.83 to 1.22
    assert low < times < high
