"""What a turn's server, its client and the rest of the machine use, against known loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from litmeter.measure.telemetry import Telemetry
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

        def used_s(until_s: float) -> float:
            server.stdin.write(b"%f\n" % until_s)
            server.stdin.flush()
            return sum(map(float, server.stdout.readline().split()))

        begun_s, telemetry = used_s(0.1), Telemetry(on_gpu=False)
        telemetry.begin(server.pid, client.pid)
        truth_s = used_s(0.7) - begun_s
        usage = telemetry.end()
    assert truth_s > 0.5
    assert usage.server_s == pytest.approx(truth_s, rel=0.1)
    assert sum(usage.process_s.values()) == usage.server_s
    assert usage.process_s[server.pid] < 0.1
    assert usage.client_s == pytest.approx(0.0, abs=0.05)
    assert 0 < usage.other_percent < usage.cpu_percent < 100.1


CONTEND = """
import json, subprocess, sys, time
from litmeter.measure.telemetry import Telemetry
burn = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
sleep = subprocess.Popen(["sleep", "60"])
try:
    telemetry = Telemetry(on_gpu=False)
    telemetry.begin(burn[0].pid, sleep.pid)
    time.sleep(2)
    print(json.dumps(vars(telemetry.end())))
finally:
    for process in (*burn, sleep):
        process.kill()
"""
"""The usage of a busy server, beside a busy neighbour, while the client sleeps."""


def contended(tmp_path: Path, prelude: str = "") -> dict[str, Any]:
    """That usage, by a process of its own, after ``prelude``."""
    (script := tmp_path / "contend.py").write_text(prelude + CONTEND)
    done = subprocess.run([sys.executable, script], capture_output=True, check=True)
    usage: dict[str, Any] = json.loads(done.stdout)
    return usage


@pytest.mark.usefixtures("one_cpu")
def test_percentages_are_of_the_cpus_that_may_be_used(tmp_path: Path) -> None:
    """Two busy processes on the only CPU that they may use leave nothing idle, whatever the others do."""
    usage = contended(tmp_path)
    assert usage["cores"] == [1.0, 1.0]
    assert usage["cpu_percent"] + usage["steal_percent"] > 95
    server_percent = 100 * usage["server_s"] / usage["seconds"]
    known_percent = server_percent + usage["other_percent"] + usage["steal_percent"]
    assert known_percent == pytest.approx(100, abs=8)  # the rest is this process's
    waited_s = sum(usage["process_waited_s"].values())
    assert waited_s == pytest.approx(usage["seconds"] - usage["server_s"], rel=0.1)
    assert usage["client_waited_s"] < 0.1


QUOTA = """
from pathlib import Path
from litmeter.measure import telemetry
from litmeter.system import cores
telemetry.available_cores = lambda: cores.available_cores(Path("{0}"), Path("{0}/own"))
"""


def test_what_a_quota_does_not_say_is_unknown(tmp_path: Path) -> None:
    """It gives time of the machine's CPUs, and does not say of which."""
    (tmp_path / "own").write_text("0::/\n")
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    usage = contended(tmp_path, QUOTA.format(tmp_path))
    assert usage["cores"] == [0.5, 0.5]
    assert usage["other_percent"] is usage["steal_percent"] is None
    # Nobody holds these processes to the quota.
    assert usage["cpu_percent"] == pytest.approx(200 * usage["server_s"] / usage["seconds"], rel=0.2)
    assert usage["process_waited_s"]
