"""Processes that leave nothing behind: children that die with us, and stages that die with DVC."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO

import psutil

from servebench.errors import FREE_SPACE

LOG_TAIL_LINES = 15
NO_SPACE_BYTES = 2**16
"""Who could not write a page or a block may have left a few."""
UNWIND_S = 60
"""How long a stage may take to stop what it has started, before it is ended all the same."""
GONE_S = 10.0
"""How long killed processes are waited for."""
PR_SET_PDEATHSIG = 1
TOLD = (signal.SIGINT, signal.SIGTERM)
"""How a process is told to end."""
SHELLS = {"sh", "dash", "bash", "zsh", "fish", "ksh"}
HELD = 'read -r _ <"/dev/fd/$0" && exec "$@"'
"""Becomes the command once a line has come, and ends if none can come."""


class Terminated(BaseException):
    """SIGTERM, as an exception that unwinds the stack as KeyboardInterrupt does."""


@contextmanager
def told_to_end() -> Iterator[None]:
    """Let the first SIGTERM or Ctrl-C unwind the block, in UNWIND_S at most; ignore those that follow.

    Whoever stops what it has started must not be stopped in that. Should the exception get lost, as
    in a destructor, the alarm ends us, and the guards of what has been started do the rest.
    """
    handled = [number for number in TOLD if signal.getsignal(number) != signal.SIG_IGN]

    def unwind(signum: int, frame: FrameType | None) -> None:
        for number in handled:
            signal.signal(number, signal.SIG_IGN)
        signal.alarm(UNWIND_S)
        raise KeyboardInterrupt if signum == signal.SIGINT else Terminated

    for number in handled:
        signal.signal(number, unwind)
    try:
        yield
    finally:  # what is left of us has nothing to unwind
        for number in handled:
            signal.signal(number, signal.SIG_DFL)


def end_with_parent(poll_s: float = 0.5) -> None:
    """Send ourselves SIGTERM when the process that started us, through any shells, has gone.

    DVC that is killed would leave its stage running. The kernel's PR_SET_PDEATHSIG sees only the
    direct parent, which may be a shell that outlives DVC, so the whole line is watched. A DVC that
    was killed before we could look is not in it: whoever adopts orphans is of another session.
    """
    line: list[tuple[psutil.Process, int]] = []
    process = psutil.Process()
    while True:
        line.append((process, process.ppid()))
        parent = process.parent()
        if parent is None or parent.name() not in SHELLS:
            break
        process = parent

    orphan = "DVC_STAGE" in os.environ and _session(line[-1][1]) != os.getsid(0)

    def adopted() -> bool:
        try:
            return any(process.ppid() != parent for process, parent in line)
        except psutil.NoSuchProcess:
            return True

    def watch() -> None:
        while not (orphan or adopted()):
            time.sleep(poll_s)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def die_with(parent: int) -> None:
    """Have the kernel kill us when the process that started us, ``parent``, ends; Linux only."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        os._exit(1)


def _session(pid: int) -> int | None:
    """Of a process; None where it is gone."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


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
    of its pipe has closed, and kills the group; the command is not run before the guard is there.
    """
    with ExitStack() as cleanup:
        with signals_deferred():  # until whatever has been started is sure to be stopped
            held, release = os.pipe()
            child = subprocess.Popen(
                ["/bin/sh", "-c", HELD, str(held), *command],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=env,
                pass_fds=(held,),
                start_new_session=True,
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
            os.write(release, b"\n")
            os.close(release)
            os.close(held)
        yield child


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Hold back SIGINT and SIGTERM until the block has ended.

    They are not blocked, as a child would inherit that; what is ignored stays ignored.
    """
    came: list[int] = []
    handled = [number for number in TOLD if signal.getsignal(number) != signal.SIG_IGN]
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
        with signals_deferred():
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
    """What to add to a message about a process that died: where its log was written is no space left, or
    its last lines, indented.
    """
    if shutil.disk_usage(log.parent).free < NO_SPACE_BYTES:
        return (
            f": no space is left for temporary files ({log.parent.parent}); {FREE_SPACE}, then run it again"
        )
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
    return "; its log ends:" + "".join(f"\n    {line}" for line in lines) if lines else ""
