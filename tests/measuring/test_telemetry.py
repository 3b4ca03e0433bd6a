"""What a level's server, its client and the rest of the machine use, against a stub server."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from litmeter.load import generate
from litmeter.load.stub import running_stub as stub
from litmeter.measure.levels import level_row
from litmeter.measure.telemetry import Telemetry, Usage, available_cores, throttled_s
from litmeter.system.processes import process_group
from tests.support.load import plan


def test_telemetry_tells_server_client_and_machine_apart() -> None:
    burn = [sys.executable, "-c", "while True: pass"]
    with (
        stub(service_s=0.001, parallel=8) as server,
        process_group(burn),
        Telemetry(server.pid, interval_s=0.1) as telemetry,
    ):
        [level] = generate(
            server.url, [b"{}"], "application/json", [plan(8)], on_start=telemetry.follow_client
        )
        usage = telemetry.usage(*level.window)
    assert usage.cpu_percent is not None
    assert usage.server_cores is not None
    assert usage.client_cores is not None
    assert usage.other_percent is not None
    assert 0.02 < usage.server_cores < 1.2
    assert 0.02 < usage.client_cores < 1.2
    assert 10 < usage.other_percent < usage.cpu_percent < 100.1
    assert "other processes used" in level_row(level, usage).warnings


def test_unknown_usage_is_none_and_never_zero() -> None:
    with stub(service_s=0.001, parallel=1) as server, Telemetry(server.pid) as telemetry:
        assert telemetry.usage(0.0, 1.0) == Usage()


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
