"""Processes that leave nothing behind: children that die with us, and stages that die with DVC."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil

LOG_TAIL_LINES = 15
UNWIND_S = 30.0
"""How long a stage may take to stop what it has started, before it is ended all the same."""
GONE_S = 10.0
"""How long killed processes are waited for."""
PR_SET_PDEATHSIG = 1
SHELLS = {"sh", "dash", "bash", "zsh", "fish", "ksh"}


def end_with_parent(poll_s: float = 0.5) -> None:
    """Send ourselves SIGTERM when the process that started us, through any shells, has gone.

    DVC that is killed would leave its stage running. The kernel's PR_SET_PDEATHSIG sees only the
    direct parent, which may be a shell that outlives DVC, so the whole line is watched.
    """
    line: list[tuple[psutil.Process, int]] = []
    process = psutil.Process()
    while True:
        line.append((process, process.ppid()))
        parent = process.parent()
        if parent is None or parent.name() not in SHELLS:
            break
        process = parent

    def adopted() -> bool:
        try:
            return any(process.ppid() != parent for process, parent in line)
        except psutil.NoSuchProcess:
            return True

    def watch() -> None:
        while not adopted():
            time.sleep(poll_s)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(UNWIND_S)
        os._exit(128 + signal.SIGTERM)  # the guards of what it has started do the rest

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def die_with(parent: int) -> None:
    """Have the kernel kill us when the process that started us, ``parent``, ends; Linux only."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        os._exit(1)


@contextmanager
def process_group(
    command: Sequence[str],
    *,
    stdin: int | IO[bytes] | None = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    stop_s: float = 10.0,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``command`` in a process group of its own, which is gone when the block is left.

    At the end the leader gets SIGTERM and ``stop_s`` seconds; then the whole group is killed.
    Should we be killed ourselves, even by SIGKILL, a guard outside the group notices that our end
    of its pipe has closed, and kills the group.
    """
    with ExitStack() as cleanup:
        with _signals_deferred():  # until whatever has been started is sure to be stopped
            child = subprocess.Popen(
                command, stdin=stdin, stdout=stdout, stderr=stderr, env=env, start_new_session=True
            )
            guard = subprocess.Popen(
                ["/bin/sh", "-c", 'read -r _; kill -s KILL -- "-$1"', "guard", str(child.pid)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            cleanup.callback(_dismiss, guard)
            cleanup.callback(_stop, child, stop_s)
        yield child


@contextmanager
def _signals_deferred() -> Iterator[None]:
    """Hold back SIGINT and SIGTERM until the block has ended.

    They are not blocked, as a child would inherit that; what is ignored stays ignored.
    """
    came: list[int] = []
    handled = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]
    if threading.current_thread() is not threading.main_thread():
        handled = []  # signals are handled in the main thread only
    before = {number: signal.signal(number, lambda n, _: came.append(n)) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def _dismiss(guard: subprocess.Popen[bytes]) -> None:
    guard.kill()
    guard.communicate()


def _stop(child: subprocess.Popen[bytes], stop_s: float) -> None:
    """End ``child`` and its group, and close our ends of its pipes."""
    try:
        if child.poll() is None:
            child.terminate()
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=stop_s)
    finally:  # a second Ctrl-C ends the waiting, not the killing
        with _signals_deferred():
            _end_group(child)


def _end_group(child: subprocess.Popen[bytes]) -> None:
    # Killed is not yet gone; and where nobody reaps orphans, zombies would keep the group for ever.
    deadline = time.monotonic() + GONE_S
    while _kill_group(child.pid) and time.monotonic() < deadline:
        child.poll()
        time.sleep(0.01)
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()


def _kill_group(group: int) -> bool:
    """Kill what is left of ``group``; False once nothing is."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS, for a group of zombies only
        return False
    return True


def log_tail(log: Path) -> str:
    """The last lines of a log, indented, to go behind a message."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
    return "; its log ends:" + "".join(f"\n    {line}" for line in lines) if lines else ""
