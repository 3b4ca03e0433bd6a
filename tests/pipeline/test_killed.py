"""Killed at any moment, a benchmark leaves its last result and nothing else."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from litmeter.measure.rows import TurnRow
from litmeter.paths import COMPARISON_TURNS, BenchmarkPaths
from litmeter.system.files import read_json, read_rows
from litmeter.system.machine import lock_file
from litmeter.system.temporary import TEMPORARY_SUFFIX
from tests.pipeline.conftest import Clone, results_of

NAME = "e1_baseline"
STAGE = f"benchmark@{NAME}"
COMMANDS = (f"src/stage.py benchmark {NAME}", f"litmeter.stages benchmark {NAME}")
"""Of the stage, before and after src/stage.py has handed over."""
LINES = {
    "start": f"Running stage '{STAGE}'",
    "loading": f"{NAME}: float32",
    "writing": f"{NAME}: ready after",
}
"""What is said as each phase begins, or the one before."""
PHASES = {"start": 5.0, "ready": 2.0, "load": 4.0, "writing": 0.02}
"""Seconds from where each begins, over which the moments are spread."""
LOAD = {"requests": 1_000_000, "max_s": 2.0}
COMPARISON_S, TURNS_BEFORE = 30.0, 6
"""Of a comparison; turns after which it is killed."""


@dataclass(frozen=True)
class Kill:
    """Who gets which signal, and when."""

    phase: str
    victim: str
    signal: signal.Signals
    delay_s: float = 0.0

    def __str__(self) -> str:
        return f"{self.victim} by {self.signal.name} {self.delay_s:.3f} s into {self.phase}"


def typical() -> list[Kill]:
    """DVC alone while the model is loaded; the stage alone, or both by Ctrl-C, once the server is ready."""
    return [
        Kill("loading", "dvc", signal.SIGKILL),
        Kill("ready", "stage", signal.SIGKILL),
        Kill("ready", "group", signal.SIGINT),
    ]


def anywhere() -> Iterator[Kill]:
    """Twenty moments, five in each phase; every pair of victim and signal at least twice."""
    rng = random.Random(5)
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
    pairs = list(itertools.product(("dvc", "stage", "group"), signals))
    drawn = [pair for _ in range(3) for pair in rng.sample(pairs, len(pairs))]
    for phase, (victim, told) in zip(list(PHASES) * 5, drawn[:20], strict=True):
        yield Kill(phase, victim, told, rng.uniform(0.0, PHASES[phase]))


@dataclass(frozen=True)
class Killed(Clone):
    """A clone with a folder for temporary files of its own."""

    temporary: Path

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"TMPDIR": str(self.temporary)}

    def left(self) -> list[Path]:
        """Half-written results, and temporary files."""
        half_written = [path for path in self.path.rglob(f"*{TEMPORARY_SUFFIX}") if ".venv" not in path.parts]
        return [*half_written, *self.temporary.iterdir()]

    def generation(self) -> list[int]:
        """When each file of the experiment's results was written."""
        return [(self.path / path).stat().st_mtime_ns for path in BenchmarkPaths(NAME).outputs]


@pytest.fixture
def killed(ran: Clone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killed]:
    yield Killed(ran.path, tmp_path_factory.mktemp("t"))
    ran.restore()


def kill_benchmark(clone: Killed, kill: Kill) -> list[Path]:
    """Kill it; return the temporary files that are left: none, unless the stage could not help it."""
    before = clone.generation()
    clone.change({"experiments": {NAME: {"precision": "full", "batch_timeout_s": 0.02}}, "load": LOAD})
    process = clone.start(clone.dvc_path, "repro", STAGE)
    try:
        wait_for_moment(clone, process, kill)
        ports = listening(clone.processes())
        strike(clone, process, kill)
        output, _ = process.communicate()
        assert "Traceback" not in output, output
        clone.wait_until_alone()
        assert not ports & listening()
        FileLock(lock_file()).acquire(timeout=0).lock.release()
        left = clone.left()
        print(f"exit status {process.returncode}; {len(ports)} ports; left: {left}; {output[-300:]!r}")
        assert left == [] or (kill.signal == signal.SIGKILL and kill.victim != "dvc"), left
    finally:
        clone.end(process)
    replaced = sum(a != b for a, b in zip(before, clone.generation(), strict=True))
    assert replaced in (0, len(before))  # all of the old results or all of the new ones
    assert replaced or STAGE in clone.status()  # nothing is taken for done
    return left


@pytest.mark.parametrize("kill", typical(), ids=str)
@pytest.mark.smoke
def test_the_last_result_is_left_and_nothing_else(killed: Killed, kill: Kill) -> None:
    before = results_of(killed)
    kill_benchmark(killed, kill)
    assert results_of(killed) == before


def test_a_comparison_goes_on_where_it_was_killed(killed: Killed) -> None:
    killed.change({"comparison": {"seconds": COMPARISON_S}})
    process = killed.start(killed.dvc_path, "repro", "comparison")
    try:
        while process.poll() is None and len(killed.unfinished_lines("comparison")) < TURNS_BEFORE:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        killed.wait_until_alone()
    finally:
        killed.end(process)
    kept = [json.loads(line) for line in killed.unfinished_lines("comparison")]
    before = [line["row"] for line in kept if "row" in line]
    assert "comparison" in killed.status()
    killed.dvc("repro", "comparison")
    turns = read_rows(killed.path / COMPARISON_TURNS, TurnRow)
    assert [asdict(turn) for turn in turns[: len(before)]] == before
    assert len(turns) > len(before) > 0
    assert turns[-1].at_s > COMPARISON_S / 2  # what was measured before counts as time
    assert killed.unfinished_logs("comparison") == []
    assert "comparison" not in killed.status()


@pytest.mark.soak
@pytest.mark.parametrize("kill", list(anywhere()), ids=str)
def test_the_next_run_is_right(killed: Killed, kill: Kill) -> None:
    left = kill_benchmark(killed, kill)
    killed.git("checkout", "-q", "params.yaml")
    killed.change({"experiments": {NAME: {"precision": "full", "batch_timeout_s": 0.03}}})
    done = killed.dvc("repro", STAGE)
    assert ("removed what a killed run has left" in done.stderr) == bool(left), done.stderr
    assert killed.left() == []
    assert STAGE not in killed.status()
    metrics = read_json(killed.path / BenchmarkPaths(NAME).metrics)
    assert metrics["throughput_rps"] > 0
    assert metrics["failed"] == 0
    assert "??" not in killed.git("status", "--porcelain")


def wait_for_moment(clone: Killed, process: subprocess.Popen[str], kill: Kill) -> None:
    """Until the phase has begun, and then for the delay."""
    if kill.phase == "writing":
        clone.wait_for(LINES["writing"], process)
        first = clone.path / f"samples/.{NAME}.csv{TEMPORARY_SUFFIX}"
        before = clone.generation()
        while not first.exists() and clone.generation() == before and process.poll() is None:
            time.sleep(0.0002)
    elif kill.phase in ("ready", "load"):  # the null server starts when the other one is ready
        while not clone.processes('"null_model": true') and process.poll() is None:
            time.sleep(0.02)
        time.sleep(PHASES["ready"] if kill.phase == "load" else 0.0)
    elif kill.phase != "start" or kill.victim == "stage":
        clone.wait_for(LINES[kill.phase], process)
    time.sleep(kill.delay_s)


def strike(clone: Killed, process: subprocess.Popen[str], kill: Kill) -> None:
    if kill.victim == "dvc":
        process.send_signal(kill.signal)
    elif kill.victim == "group":
        os.killpg(process.pid, kill.signal)
    else:
        deadline = time.monotonic() + 10
        while process.poll() is None and time.monotonic() < deadline:
            if pids := [one.pid for text in COMMANDS for one in clone.processes(text)]:
                os.kill(min(pids), kill.signal)
                return
            time.sleep(0.01)
        assert kill.phase == "writing"  # over already, or never found


def listening(processes: Iterable[psutil.Process] | None = None) -> set[int]:
    """The ports on which these processes listen, or any."""
    found = set()
    for process in psutil.process_iter() if processes is None else processes:
        with suppress(psutil.Error):
            connections = process.net_connections("tcp")
            found |= {one.laddr.port for one in connections if one.status == psutil.CONN_LISTEN}
    return found
