"""What fails, fails well: one line, the last result kept, nothing left running. test_killed.py has kills."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.pipeline.conftest import Clone, results_of


def test_a_mistake_is_found_before_anything_is_trained(ran: Clone) -> None:
    try:
        ran.change({"train": {"epochs": 2}, "serve": {"precision": "hlaf"}})
        done = ran.dvc("repro", check=False)
    finally:
        ran.git("checkout", "-q", ".")
    assert done.returncode == 255
    [line] = [line for line in done.stderr.splitlines() if line.startswith("machine: ")]
    assert "serve.precision: got 'hlaf'" in line
    assert ran.stages_run(done.stdout) == ["machine"]


@pytest.mark.smoke
def test_a_refused_value_is_said_to_be_still_there(ran: Clone) -> None:
    """DVC writes it into params.yaml before any stage runs, and the next run would find it there."""
    for setting in ("serve.max_batch_size=0", "serve.drain_s=-1"):
        done = ran.dvc("exp", "run", "-S", setting, check=False)
        [line] = [line for line in done.stderr.splitlines() if line.startswith("machine: ")]
        assert setting.partition("=")[0] in line
        assert line.endswith("params.yaml still has it: git checkout params.yaml")
        ran.git(*line.rpartition("git ")[2].split())
    assert ran.dvc("exp", "run", "-S", "serve.typo=1", check=False).returncode != 0
    assert ran.git("status", "--porcelain") == ""


@pytest.mark.smoke
def test_a_server_that_dies_under_load_fails_the_stage(ran: Clone) -> None:
    before = results_of(ran)
    ran.change({"load": {"requests": 1_000_000, "max_s": 20.0}})
    process = ran.start(ran.dvc_path, "repro", "benchmark@e1_baseline")
    try:
        ran.wait_for("e1_baseline: float32", process)
        while not ran.processes('"null_model": true'):  # it starts when the other one is ready
            time.sleep(0.05)
        time.sleep(5.0)
        servers = {server.pid: server for server in ran.processes('"null_model": false')}
        [main] = [pid for pid, server in servers.items() if server.ppid() not in servers]
        os.kill(main, signal.SIGKILL)
        output, _ = process.communicate()
        assert process.returncode == 255
        assert "benchmark: e1_baseline: the server died (exit status -9)" in output
        ran.wait_until_alone()
        assert results_of(ran) == before
    finally:
        ran.end(process)
        ran.git("checkout", "-q", ".")
