"""A reading that fails leaves a gap in its own values alone; the GPU is the one that CUDA uses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter, sleep
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from litmeter.measure.comparison import free_gpu_bytes, has_room_for_copies
from litmeter.measure.telemetry import Telemetry, Usage
from litmeter.system.processes import process_group

BURN = [sys.executable, "-c", "while True: pass"]


@contextmanager
def watched() -> Iterator[tuple[Telemetry, subprocess.Popen[bytes], subprocess.Popen[bytes]]]:
    """Of two processes, a busy one as the server and an idle one as its client."""
    with (
        process_group(BURN) as server,
        process_group(["sleep", "60"]) as client,
        Telemetry(server.pid, interval_s=0.02) as telemetry,
    ):
        telemetry.follow_client(client.pid)
        sleep(0.1)
        yield telemetry, server, client


def usage_of_next(telemetry: Telemetry, seconds: float = 0.25) -> Usage:
    opened = perf_counter()
    sleep(seconds)
    return telemetry.usage(opened, perf_counter())


def known(usage: Usage) -> set[str]:
    return {name for name, value in vars(usage).items() if value is not None and not name.startswith("gpu_")}


def failing_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[str]:
    """Have a reading raise an error the next time, and no more; the list has its name then."""
    read, failed = getattr(owner, name), list[str]()

    def once(*arguments: Any, **options: Any) -> Any:
        if not failed:
            failed.append(name)
            raise RuntimeError(f"{name} does not answer")
        return read(*arguments, **options)

    monkeypatch.setattr(owner, name, once)
    return failed


@pytest.mark.parametrize(
    ("owner", "name"), [(psutil, "cpu_times"), (psutil.Process, "children"), (psutil.Process, "cpu_times")]
)
def test_a_reading_that_fails_once_is_said_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], owner: Any, name: str
) -> None:
    with watched() as (telemetry, _, _):
        before = known(usage_of_next(telemetry))
        assert {"cpu_percent", "server_cores", "client_cores", "other_percent"} <= before
        failed = failing_once(monkeypatch, owner, name)
        assert known(usage_of_next(telemetry)) == before
        assert failed == [name]
        after = usage_of_next(telemetry)
    assert known(after) == before
    assert after.server_cores is not None
    assert after.server_cores > 0.1
    assert capsys.readouterr().out.count(f"{name} does not answer") == 1


def test_a_reading_that_fails_always_empties_its_own_columns_and_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing() -> None:
        raise RuntimeError("no times")

    monkeypatch.setattr(psutil, "cpu_times", failing)
    with watched() as (telemetry, _, _):
        usage = usage_of_next(telemetry)
    assert usage.cpu_percent is usage.other_percent is usage.steal_percent is None
    assert usage.server_cores is not None
    assert usage.client_cores is not None
    assert capsys.readouterr().out.count("no times") == 1


def test_processes_that_vanish_cost_no_value() -> None:
    with watched() as (telemetry, server, client):
        before = known(usage_of_next(telemetry))
        for process in (server, client):
            process.kill()
            process.wait()
        usage = usage_of_next(telemetry)
    assert known(usage) == before
    assert usage.server_cores == usage.client_cores == 0.0


OTHER, OWN = (
    SimpleNamespace(
        uuid=f"GPU-{number}" + "2345678-aaaa-bbbb-cccc-123456789abc",
        utilization=10 * number,
        memory_used=1000 * number,
        memory_available=6000 * number,
        power_draw=None,
    )
    for number in (1, 2)
)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA_VISIBLE_DEVICES names the second of them, by its index or UUID, or CUDA's order does."""
    monkeypatch.setattr("gpustat.new_query", lambda: SimpleNamespace(gpus=[OTHER, OWN]))
    monkeypatch.setattr("gpustat.gpu_count", lambda: 2)
    monkeypatch.setattr(
        "litmeter.system.machine.cuda_uuid", lambda: OWN.uuid.removeprefix("GPU-"), raising=False
    )


@pytest.mark.usefixtures("two_gpus")
def test_the_gpu_is_that_of_cudas_uuid() -> None:
    assert free_gpu_bytes() == 12000 * 2**20
    assert has_room_for_copies([], 0, 1.0, "cuda")
    assert not has_room_for_copies([], 0, 6.0, "cuda")
    assert has_room_for_copies([], 0, 6.0, "cpu")
    with watched() as (telemetry, _, _):
        usage = usage_of_next(telemetry)
    assert (usage.gpu_percent, usage.gpu_memory_mib, usage.gpu_power_w) == (20.0, 2000.0, None)


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_is_not_listed_is_unknown_and_not_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a slice of one (MIG), whose UUID is its own."""
    monkeypatch.setattr("litmeter.system.machine.cuda_uuid", lambda: "MIG-1", raising=False)
    with watched() as (telemetry, _, _):
        usage = usage_of_next(telemetry)
    assert usage.gpu_percent is usage.gpu_memory_mib is None
    assert usage.cpu_percent is not None
