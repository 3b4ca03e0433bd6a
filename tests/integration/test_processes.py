"""Processes that end with those who started them, and one benchmark at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from litmeter.system.processes import memory_alone, process_group
from tests.support.asking import wait_for
from tests.support.processes import processes_mentioning

LOCK_PROGRAM = """
import sys, time
from litmeter.system.machine import exclusive_machine
with exclusive_machine():
    print("have it", flush=True)
    time.sleep(float(sys.argv[1]))
"""


def test_leaving_the_block_ends_a_group_with_its_grandchildren() -> None:
    mark = f"9{time.time_ns()}"
    script = f"sleep {mark} & sleep {mark} & wait"
    with process_group(["/bin/sh", "-c", script]):
        while len(processes_mentioning(mark)) < 3:
            time.sleep(0.05)
    assert processes_mentioning(mark) == []


def test_zombies_that_nobody_reaps_are_not_waited_for() -> None:
    program = """
import ctypes, sys, time
from litmeter.system.processes import GONE_S, process_group
PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
with process_group(["/bin/sh", "-c", "sleep 60 & wait"]):
    time.sleep(0.3)
    started = time.monotonic()
assert time.monotonic() - started < GONE_S / 2
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_stopped_leader_hears_sigterm(tmp_path: Path) -> None:
    """Also one with threads, any of which the kernel may give a signal."""
    program = """
import signal, sys, threading, time
from pathlib import Path
signal.signal(signal.SIGTERM, lambda *_: Path(sys.argv[1]).touch() or sys.exit())
for _ in range(8):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
Path(sys.argv[1]).unlink()
signal.pause()
"""
    for number in range(8):
        heard = tmp_path / str(number)
        heard.touch()
        with process_group([sys.executable, "-c", program, str(heard)], stop_s=5, follow="it") as leader:
            wait_for(lambda heard=heard: not heard.exists())
            time.sleep(0.1)
            os.kill(leader.pid, signal.SIGSTOP)
            wait_for(lambda pid=leader.pid: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
        assert heard.exists()


def test_a_leader_that_ignores_sigterm_is_killed() -> None:
    mark = f"8{time.time_ns()}"
    with process_group(
        ["/bin/sh", "-c", f"trap '' TERM; while :; do sleep 0.1 {mark} || :; done"], stop_s=0.3
    ):
        time.sleep(0.3)
    assert processes_mentioning(mark) == []


def test_a_second_ctrl_c_kills_a_group_that_is_slow() -> None:
    mark = f"5{time.time_ns()}"
    script = f"trap '' TERM; while :; do sleep 0.1 {mark} || :; done"
    program = f"""
import time
from litmeter.system.processes import process_group
with process_group(["/bin/sh", "-c", {script!r}], stop_s=60):
    print("up", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as starter:
        assert starter.stdout.readline() == b"up\n"
        for _ in range(2):
            time.sleep(0.3)
            starter.send_signal(signal.SIGINT)
    assert starter.returncode != 0
    assert processes_mentioning(mark) == []


def kill_once_up(program: str, **options: Any) -> None:
    """Start a Python program, and kill it when what it has started says that it is up."""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, **options) as starter:
        assert starter.stdout.readline() == b"up\n"
        starter.send_signal(signal.SIGKILL)
        starter.stdout.close()


EXITING = "from litmeter.system.signals import exit_with_parent; exit_with_parent(0.1); time.sleep(60)"


@pytest.mark.parametrize("when", ["later", "before its start"])
def test_a_stage_ends_whose_dvc_is_killed(when: str) -> None:
    """A program that stands for DVC starts a waiting stage, by a shell that stays, and is killed."""
    mark = f"7{time.time_ns()}"
    if when == "later":
        stage = "import time; " + EXITING.replace("time.sleep", "print('up', flush=True); time.sleep")
        words, options = ["/bin/sh", "-c", '"$@"; :', "sh", sys.executable, "-c", f"{stage}; {mark}"], {}
    else:
        stage = "import os, time; parent = os.getppid(); print('up', flush=True)\n"
        stage += f"while os.getppid() == parent: time.sleep(0.01)\n{EXITING}; {mark}"
        words = [sys.executable, "-c", stage]
        options = {"env": os.environ | {"DVC_STAGE": "benchmark"}, "start_new_session": True}
    kill_once_up(f"import subprocess; subprocess.run({words!r})", **options)
    wait_for(lambda: processes_mentioning(mark) == [], 15)


def test_kill_with_parent_ends_children_of_dead_parents_too() -> None:
    mark = f"6{time.time_ns()}"
    child = (
        "import sys, time; from litmeter.system.signals import kill_with_parent; "
        f"kill_with_parent(int(sys.argv[1])); print('up', flush=True); time.sleep(60); {mark}"
    )
    program = f"""
import os, subprocess, sys
subprocess.run([sys.executable, "-c", {child!r}, str(os.getpid())])
"""
    kill_once_up(program)
    wait_for(lambda: processes_mentioning(mark) == [], 15)
    nobody = str(os.getpid() + 1)
    late = subprocess.run([sys.executable, "-c", child, nobody], capture_output=True)
    assert (late.returncode, late.stdout) == (1, b"")


def test_a_group_never_runs_if_its_starter_dies_early() -> None:
    mark = f"5{time.time_ns()}"
    program = f"""
import os, signal, subprocess
from litmeter.system.processes import process_group
start = subprocess.Popen
def start_and_die(*arguments, **options):
    print(start(*arguments, **options).pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
subprocess.Popen = start_and_die
with process_group(["sleep", "{mark}"]):
    pass
"""
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert done.returncode == -signal.SIGKILL
    assert int(done.stdout) > 0
    wait_for(lambda: processes_mentioning(mark) == [], 15)


def test_graceful_termination_is_not_interrupted_by_further_signals() -> None:
    program = """
import time
from litmeter.system.signals import graceful_termination
with graceful_termination():
    try:
        print("up", flush=True)
        time.sleep(60)
    finally:
        print("stopping", flush=True)
        time.sleep(0.5)
        print("stopped", flush=True)
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout.readline() == "up\n"
        process.terminate()
        assert process.stdout.readline() == "stopping\n"
        process.terminate()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "stopped\n"


def test_the_second_benchmark_waits_and_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOCK_PROGRAM]
    options = {"stdout": subprocess.PIPE, "text": True, "env": os.environ | {"TMPDIR": str(tmp_path)}}
    with subprocess.Popen([*command, "60"], **options) as first:
        assert first.stdout.readline() == "have it\n"
        with subprocess.Popen([*command, "0"], **options) as second:
            assert "at work on this machine already; waiting" in second.stdout.readline()
            assert second.poll() is None
            # Killed outright, the holder cannot release: the kernel does.
            first.kill()
            assert second.stdout.readline() == "have it\n"


SHARES = """
import os, sys
block = os.urandom(64 * 2**20)  # which the child shares
if os.fork() == 0:
    own = os.urandom(32 * 2**20)
    print("ready", flush=True)
sys.stdin.read()
"""


def test_memory_that_processes_share_counts_once() -> None:
    with process_group(
        [sys.executable, "-c", SHARES], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        assert 96 < memory_alone(process.pid) / 2**20 < 128
