"""What fails, fails well: one line, the last result kept, nothing left running."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from litmeter.system.machine_lock import exclusive_machine
from tests.pipeline.conftest import TINY, Clone, results_of
from tests.support.processes import processes_mentioning


@pytest.fixture(scope="module")
def clone(new_clone: Callable[[], Clone]) -> Clone:
    clone = new_clone()
    clone.forget_results()
    clone.change(TINY)
    return clone


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"serve": {"precision": "hlaf"}},
            "params.yaml: serve.precision: got 'hlaf'; allowed: 'full', 'half' or 'int8'",
        ),
        ({"data": {"folder": "nowhere"}}, "data.folder: got 'nowhere'; allowed: an existing folder"),
    ],
)
def test_a_mistake_is_found_before_anything_is_trained(
    clone: Clone, changes: dict[str, object], message: str
) -> None:
    original = (clone.path / "params.yaml").read_text()
    try:
        clone.change(changes)
        done = clone.dvc("repro", check=False)
    finally:
        (clone.path / "params.yaml").write_text(original)
    assert done.returncode == 255
    assert f"machine: {message}" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert clone.stages_run(done.stdout) == ["machine"]


def test_a_refused_value_is_said_to_be_still_there(new_clone: Callable[[], Clone]) -> None:
    """DVC writes it into params.yaml before any stage runs, and the next run would find it there."""
    clone = new_clone()
    for setting in ("serve.max_batch_size=0", "serve.drain_s=-1"):
        done = clone.dvc("exp", "run", "-S", setting, check=False)
        [line] = [line for line in done.stderr.splitlines() if line.startswith("machine: ")]
        assert setting.partition("=")[0] in line
        assert line.endswith("params.yaml still has it: git checkout params.yaml")
        clone.git(*line.rpartition("git ")[2].split())
    assert clone.git("status", "--porcelain") == ""


def test_dvc_itself_refuses_a_key_that_is_not_there(clone: Clone) -> None:
    done = clone.dvc("exp", "run", "-S", "serve.typo=1", check=False)
    assert done.returncode != 0
    assert "typo" in done.stderr


def test_a_broken_photo_is_named(clone: Clone) -> None:
    photo = next((clone.path / "data/sample/oxford-iiit-pet/images").glob("*.jpg"))
    whole = photo.read_bytes()
    try:
        photo.write_bytes(whole[:500])
        done = clone.dvc("repro", "data", check=False)
    finally:
        photo.write_bytes(whole)
    assert done.returncode == 255
    assert f"{photo.relative_to(clone.path)}: not a readable image" in done.stderr


def nothing_is_left(clone: Clone, within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while left := [pid for pid in processes_mentioning("litmeter") if in_clone(pid, clone.path)]:
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.2)
    stray = [path for path in clone.path.rglob(".*.tmp") if ".dvc" not in path.parts]
    assert stray == []


def in_clone(pid: int, path: Path) -> bool:
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd")) == path
    except OSError:
        return False


def stage_pid(clone: Clone) -> int:
    [pid] = [p for p in processes_mentioning("litmeter.stages benchmark") if in_clone(p, clone.path)]
    return pid


LONG_LOAD = {"requests": 1_000_000, "max_s": 20.0}


@pytest.mark.parametrize(
    ("moment", "victim"),
    [
        ("float32", "dvc"),
        ("server ready", "stage by SIGKILL"),
        ("server ready", "Ctrl-C"),
    ],
)
def test_killed_it_leaves_the_last_result_and_nothing_else(ran: Clone, victim: str, moment: str) -> None:
    """dvc alone while the model is loaded; the stage alone, or both by Ctrl-C, under load.

    test_killed.py has more of them.
    """
    before = results_of(ran)
    ran.change({"load": LONG_LOAD})
    process = ran.start(ran.dvc_path, "repro", "benchmark@e1_baseline")
    try:
        ran.wait_for(moment, process)
        time.sleep(1.0)
        if victim == "dvc":
            process.send_signal(signal.SIGKILL)
        elif victim == "stage by SIGKILL":
            os.kill(stage_pid(ran), signal.SIGKILL)
        else:
            os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert process.returncode != 0
        assert "Traceback" not in output
        assert ("`git checkout -- . && dvc checkout`" in output) == (victim == "Ctrl-C")
        nothing_is_left(ran)
        assert results_of(ran) == before
    finally:
        ran.end(process)
        ran.git("checkout", "-q", ".")
    # The next run is right: nothing was taken for done.
    assert ran.status() == {"machine": ["always changed"]}


def null_servers(clone: Clone) -> list[int]:
    """Processes of the server with a null model, which is measured before the load."""
    return [pid for pid in processes_mentioning("--null-model") if in_clone(pid, clone.path)]


def test_a_server_that_dies_under_load_fails_the_stage(ran: Clone) -> None:
    before = results_of(ran)
    ran.change({"load": LONG_LOAD})
    process = ran.start(ran.dvc_path, "repro", "benchmark@e1_baseline")
    try:
        ran.wait_for("server ready", process)
        while not null_servers(ran):
            time.sleep(0.05)
        while null_servers(ran):
            time.sleep(0.05)
        time.sleep(2.0)
        [server] = roots("litmeter.serving", ran.path)
        os.kill(server, signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 255
        assert "benchmark: the server died (exit status -9)" in output
        nothing_is_left(ran)
        assert results_of(ran) == before
    finally:
        ran.end(process)
        ran.git("checkout", "-q", ".")


def test_a_benchmark_waits_for_another_one_and_says_so(ran: Clone) -> None:
    ran.change({"load": {"requests": 21}})
    try:
        with exclusive_machine():
            process = ran.start(ran.dvc_path, "repro", "benchmark@e1_baseline")
            ran.wait_for("another benchmark runs on this machine; waiting for it", process)
            time.sleep(2.0)
            assert not [pid for pid in processes_mentioning("litmeter.serving") if in_clone(pid, ran.path)]
        ran.wait_for("e1_baseline: float32", process)
    finally:
        ran.end(process)
        ran.git("checkout", "-q", ".")
        ran.dvc("checkout", "-q", "--force")
    nothing_is_left(ran)


def roots(text: str, path: Path) -> list[int]:
    """Processes of the clone at ``path`` that mention ``text``, while their parents do not."""
    found = {pid for pid in processes_mentioning(text) if in_clone(pid, path)}
    return [pid for pid in found if psutil.Process(pid).ppid() not in found]
