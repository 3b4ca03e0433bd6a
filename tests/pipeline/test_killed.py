"""Killed at any moment, a benchmark leaves nothing, and the next ``dvc repro`` is right."""

from __future__ import annotations

import itertools
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from litmeter.paths import BenchmarkPaths
from litmeter.system.files import read_json
from litmeter.system.temporary import TEMPORARY_SUFFIX
from tests.pipeline.conftest import TINY, Clone

pytestmark = pytest.mark.soak

NAME = "e1_baseline"
STAGE = re.compile(rf"(src/stage\.py|litmeter\.stages) benchmark {NAME}")
"""Its command line, before and after src/stage.py has handed over."""
PHASES = {"start": 5.0, "warm-up": 2.0, "load": 2.0, "writing": 0.02, "stop": 4.0}
"""Seconds from where each begins, over which the moments are spread."""
LOAD = {"warmup_s": 1.0, "max_s": 2.0}
LONG_S = 120.0


@dataclass(frozen=True)
class Kill:
    """Who gets which signal, and when."""

    number: int
    phase: str
    victim: str
    signal: signal.Signals
    delay_s: float

    def __str__(self) -> str:
        return f"m{self.number:02} {self.victim} by {self.signal.name} {self.delay_s:.3f} s into {self.phase}"


def kills() -> Iterator[Kill]:
    """Twenty moments, four in each phase; every pair of victim and signal at least twice."""
    rng = random.Random(5)
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
    pairs = list(itertools.product(("dvc", "stage", "group"), signals))
    drawn = [pair for _ in range(3) for pair in rng.sample(pairs, len(pairs))]
    phases = list(PHASES) * 4
    for number, (phase, (victim, told)) in enumerate(zip(phases, drawn[: len(phases)], strict=True)):
        yield Kill(number, phase, victim, told, rng.uniform(0.0, PHASES[phase]))


@dataclass(frozen=True)
class Killed(Clone):
    """A clone with a folder for temporary files of its own."""

    temporary: Path = Path()

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"TMPDIR": str(self.temporary)}

    def processes(self) -> list[psutil.Process]:
        """Whoever works in the clone, or was started by one who does."""
        return [process for process in psutil.process_iter() if self.owns(process)]

    def owns(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            ours = process.environ().get("TMPDIR", "").startswith(str(self.temporary))
            return ours or Path(process.cwd()).is_relative_to(self.path)
        return False

    def stage(self) -> int | None:
        found = [process.pid for process in self.processes() if STAGE.search(" ".join(process.cmdline()))]
        return min(found, default=None)

    def half_written(self) -> list[Path]:
        return [path for path in self.path.rglob(f"*{TEMPORARY_SUFFIX}") if ".venv" not in path.parts]

    def strangers(self) -> list[str]:
        """What lies in the folder for temporary files, besides the lock."""
        return [name for name in os.listdir(self.temporary) if not name.endswith(".lock")]

    def generation(self) -> list[int]:
        """When each file of the experiment's results was written."""
        return [(self.path / path).stat().st_mtime_ns for path in BenchmarkPaths(NAME).files]


@pytest.fixture(scope="module")
def killed(new_clone: Callable[[], Clone], tmp_path_factory: pytest.TempPathFactory) -> Killed:
    return prepared(new_clone().path, tmp_path_factory.mktemp("t"))


def prepared(path: Path, temporary: Path) -> Killed:
    """The clone at ``path``, with results of a small configuration."""
    clone = Killed(path, temporary)
    clone.forget_results()
    clone.change(TINY)
    clone.change({"load": LOAD})
    clone.keep_few_photos()
    clone.dvc("repro")
    clone.commit("results of this machine")
    return clone


def wait_for_moment(clone: Killed, process: subprocess.Popen[str], kill: Kill) -> None:
    """Until the phase has begun, and then for the delay."""
    if kill.phase == "start":
        if kill.victim == "stage":
            clone.wait_for(f"Running stage 'benchmark@{NAME}'", process)
    elif kill.phase in ("warm-up", "load"):
        clone.wait_for("server ready", process)
        if kill.phase == "load":
            time.sleep(PHASES["warm-up"])
    elif kill.phase == "stop":
        clone.wait_for(f"{NAME}: run 2: ", process)
    else:
        clone.wait_for("photos served: ", process)
        first = clone.path / f"samples/.{NAME}.csv{TEMPORARY_SUFFIX}"
        before = clone.generation()
        while not first.exists() and clone.generation() == before and process.poll() is None:
            time.sleep(0.0002)
    time.sleep(kill.delay_s)


def strike(clone: Killed, process: subprocess.Popen[str], kill: Kill) -> None:
    if kill.victim == "dvc":
        process.send_signal(kill.signal)
    elif kill.victim == "group":
        os.killpg(process.pid, kill.signal)
    else:
        deadline = time.monotonic() + 10
        while (pid := clone.stage()) is None and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if pid is not None:
            os.kill(pid, kill.signal)
        else:  # over already, or never found
            assert kill.phase in ("writing", "stop")


@pytest.mark.parametrize("kill", list(kills()), ids=str)
def test_nothing_is_left_and_the_next_run_is_right(killed: Killed, kill: Kill) -> None:
    before = killed.generation()
    timeout_s = 0.01 + 0.001 * (1 + kill.number)
    killed.change({"experiments": {NAME: {"precision": "full", "batch_timeout_s": timeout_s}}})
    process = killed.start(killed.dvc_path, "repro")
    try:
        wait_for_moment(killed, process, kill)
        ports = listening(killed)
        strike(killed, process, kill)
        output, _ = process.communicate(timeout=LONG_S)
        assert "Traceback" not in output, output
        wait_until_alone(killed)
        assert listening(killed) == []
        for port in ports:
            assert not answers(port)
        FileLock(killed.temporary / f"litmeter-{os.getuid()}.lock").acquire(timeout=0).lock.release()
        # All of the old results or all of the new ones.
        assert sum(a != b for a, b in zip(before, killed.generation(), strict=True)) in (0, len(before))
        left = [*killed.half_written(), *killed.strangers()]
        print(
            f"{kill}: exit status {process.returncode}; {len(ports)} ports; left: {left}; {output[-300:]!r}"
        )
        assert left == [] or (kill.signal == signal.SIGKILL and kill.victim != "dvc"), left
    finally:
        killed.end(process)

    done = killed.dvc("repro")
    assert ("removed what a killed run has left" in done.stderr) == bool(left), done.stderr
    assert [*killed.half_written(), *killed.strangers()] == []
    assert killed.status() == {"machine": ["always changed"]}
    run = read_json(killed.path / BenchmarkPaths(NAME).run)
    assert run["serve"]["batch_timeout_s"] == pytest.approx(timeout_s)
    metrics = read_json(killed.path / BenchmarkPaths(NAME).metrics)
    assert metrics["throughput_rps"] > 0
    assert metrics["failed"] == 0
    assert not [line for line in killed.git("status", "--porcelain").splitlines() if line.startswith("??")]
    killed.commit("the results of the run after")


def listening(clone: Killed) -> list[int]:
    """The ports on which processes of the clone listen."""
    found: list[int] = []
    for process in clone.processes():
        with suppress(psutil.Error):
            connections = process.net_connections("tcp")
            found += [one.laddr.port for one in connections if one.status == psutil.CONN_LISTEN]
    return found


def answers(port: int) -> bool:
    return any(
        one.laddr.port == port and one.status == psutil.CONN_LISTEN for one in psutil.net_connections("tcp")
    )


def wait_until_alone(clone: Killed, within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while left := clone.processes():
        assert time.monotonic() < deadline, [(p.pid, p.cmdline()) for p in left if p.is_running()]
        time.sleep(0.1)
