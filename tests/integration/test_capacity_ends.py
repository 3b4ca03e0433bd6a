"""Searches for a capacity that end without one; simulated ones are in the unit tests."""

from __future__ import annotations

import csv
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from litmeter.cli.main import main
from litmeter.load.stub import running_stub
from litmeter.say.tables import pluralise
from tests.support.capacity import capacity_of


def test_the_time_is_kept_though_the_server_hangs() -> None:
    with running_stub(0.01, 2) as stub:
        timer = threading.Timer(5.0, os.kill, (stub.pid, signal.SIGSTOP))
        timer.start()
        started = time.monotonic()
        found = capacity_of(stub, slo_ms=50.0, max_s=12.0).metrics
        timer.cancel()
        assert time.monotonic() - started < 22
    assert found.status == "unresolved"


@pytest.mark.smoke
def test_the_command_prints_writes_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (body := tmp_path / "body.json").write_text("{}")
    out, picture = tmp_path / "probes.csv", tmp_path / "capacity.png"
    arguments = ["--body", str(body), "--out", str(out), "--picture", str(picture), "--slo-ms", "50"]
    with running_stub(0.01, 2) as stub:
        status = main(["capacity", *arguments, "--seconds", "12", "--url", stub.url])
    text = " ".join(capsys.readouterr().out.split())  # wherever a line ends
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert status == 1, text
    for row in rows:
        users, offered = row["users"], row["offered_rps"]
        assert f"| {f'{float(offered):.1f}/s' if offered else pluralise(float(users), 'user')}" in text
    assert "12 s (--seconds)" in text  # which are too few
    assert picture.read_bytes().startswith(b"\x89PNG")
