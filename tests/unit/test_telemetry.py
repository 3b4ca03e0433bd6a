"""A reading that fails leaves a gap in its own values alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import sleep
from typing import Any

import psutil
import pytest

from litmeter.measure.telemetry import Telemetry, Usage
from litmeter.system.processes import process_group

BURN = [sys.executable, "-c", "while True: pass"]


@dataclass
class Watched:
    """A busy process as the server, and an idle one as its client."""

    server: subprocess.Popen[bytes]
    client: subprocess.Popen[bytes]
    telemetry: Telemetry = field(default_factory=lambda: Telemetry(on_gpu=False))

    def usage(self, seconds: float = 0.25, during: Callable[[], None] = lambda: None) -> Usage:
        """That of the next seconds, in which something is done."""
        self.telemetry.begin(self.server.pid, self.client.pid)
        self.telemetry.tick()
        sleep(seconds)
        during()
        return self.telemetry.end()


@pytest.fixture
def watched() -> Iterator[Watched]:
    with process_group(BURN) as server, process_group(["sleep", "60"]) as client:
        yield Watched(server, client)


def known(usage: Usage) -> set[str]:
    return {name for name, value in vars(usage).items() if value is not None and not name.startswith("gpu_")}


@pytest.mark.parametrize(
    ("owner", "name", "lost"),
    [
        (psutil, "cpu_times", {"cpu_percent", "other_percent", "steal_percent"}),
        (psutil.Process, "children", {"server_s", "other_percent", "process_waited_s"}),
    ],
)
def test_a_reading_that_fails_once_is_said_and_leaves_a_gap_in_its_own_values(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    watched: Watched,
    owner: Any,
    name: str,
    lost: set[str],
) -> None:
    def fail_once(*arguments: Any, **options: Any) -> None:
        monkeypatch.undo()
        raise RuntimeError(f"{name} does not answer")

    before = watched.usage()
    assert {"cpu_percent", "server_s", "client_s", "other_percent"} <= known(before)
    monkeypatch.setattr(owner, name, fail_once)
    assert known(before) - known(watched.usage()) == lost
    after = watched.usage()
    assert known(after) == known(before)
    assert after.server_s is not None
    assert after.server_s > 0.02
    assert capsys.readouterr().out.count(f"{name} does not answer") == 1


def test_a_reading_that_fails_always_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], watched: Watched
) -> None:
    monkeypatch.delattr(psutil, "cpu_times")
    usages = [watched.usage(0.0) for _ in range(3)]
    assert {usage.cpu_percent for usage in usages} == {None}
    assert None not in {usage.server_s for usage in usages}
    assert capsys.readouterr().out.count("cpu_times") == 1


def test_what_a_server_that_died_has_used_is_unknown(watched: Watched) -> None:
    def end() -> None:
        watched.server.kill()
        watched.server.wait()

    usage = watched.usage(during=end)
    assert usage.server_s is usage.other_percent is None
    assert usage.client_s == pytest.approx(0.0, abs=0.05)
    assert usage.cpu_percent is not None


def test_what_nobody_measures_is_unknown(watched: Watched) -> None:
    """Other processes' share, too, where the server may be one of them."""
    telemetry = Telemetry(on_gpu=False)
    telemetry.begin(None, watched.client.pid)
    usage = telemetry.end()
    assert usage.server_s is usage.other_percent is usage.mhz is usage.gpu_percent is None
    assert usage.client_s is not None
    telemetry.begin(watched.server.pid, None)
    sleep(0.1)  # in-process nothing is sent
    usage = telemetry.end()
    assert usage.client_s is None
    assert usage.other_percent is not None


def test_who_else_is_busy_is_named_and_what_is_measured_is_not(tmp_path: Path) -> None:
    for name in ("measured", "neighbour"):
        (tmp_path / name).write_text("#!/bin/sh\nwhile :; do :; done\n")
        (tmp_path / name).chmod(0o700)
    command = ["sh", "-c", "./neighbour >/dev/null 2>&1 & echo $!"]  # whose parent has ended
    neighbour = int(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout)
    try:
        with process_group([str(tmp_path / "measured")]) as server, process_group(["sleep", "600"]) as client:
            watched = Watched(server, client)
            while "neighbour" not in (usage := watched.usage()).others:
                assert usage.server_s is not None
        assert usage.others["neighbour"] > 0
        assert "measured" not in usage.others
    finally:
        os.kill(neighbour, signal.SIGKILL)
