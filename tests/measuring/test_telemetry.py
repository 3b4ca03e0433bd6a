"""What a turn's server, its client and the rest of the machine use, against known loads."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from litmeter.measure.telemetry import Telemetry, available_cores, throttled_s
from litmeter.system.processes import process_group

BURN = """
import sys, time
from concurrent.futures import ProcessPoolExecutor as Pool
def burn(seconds):
    while time.process_time() < seconds: pass
    return time.process_time()
if __name__ == "__main__":
    with Pool(1) as pool:
        for line in sys.stdin:
            print(pool.submit(burn, float(line)).result(), time.process_time(), flush=True)
"""
"""Has a child process use CPU time up to as many seconds as a line says; prints what both have used."""


def test_cpu_time_is_found_with_who_used_it(tmp_path: Path) -> None:
    """A child process of the server uses half a second, one of nobody's goes on, and the client sleeps."""
    (script := tmp_path / "burn.py").write_text(BURN)
    forever = [sys.executable, "-c", "while True: pass"]
    with (
        process_group([sys.executable, str(script)], stdin=-1, stdout=-1) as server,
        process_group(["sleep", "60"]) as client,
        process_group(forever),
    ):
        assert server.stdin is not None
        assert server.stdout is not None

        def used_s(until_s: float) -> float:
            server.stdin.write(b"%f\n" % until_s)
            server.stdin.flush()
            return sum(map(float, server.stdout.readline().split()))

        begun_s, telemetry = used_s(0.1), Telemetry()
        telemetry.begin(server.pid, client.pid)
        truth_s = used_s(0.7) - begun_s
        usage = telemetry.end()
    assert truth_s > 0.5
    assert usage.server_s == pytest.approx(truth_s, rel=0.1)
    assert sum(usage.process_s.values()) == usage.server_s
    assert usage.process_s[server.pid] < 0.1
    assert usage.client_s == pytest.approx(0.0, abs=0.05)
    assert usage.other_percent is not None
    assert usage.cpu_percent is not None
    assert 0 < usage.other_percent < usage.cpu_percent < 100.1


def test_cores_are_those_of_the_cgroups_quota(tmp_path: Path) -> None:
    free = available_cores(tmp_path)
    assert free == len(os.sched_getaffinity(0))
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert available_cores(tmp_path) == 0.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert available_cores(tmp_path) == free
    assert throttled_s(tmp_path) == 0.0
    (tmp_path / "cpu.stat").write_text("usage_usec 9\nthrottled_usec 1500000\n")
    assert throttled_s(tmp_path) == 1.5
