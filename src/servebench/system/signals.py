"""SIGINT and SIGTERM that unwind or wait, and processes that end with their parent."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import psutil

UNWIND_S = 60
"""How long a stage may take to stop what it has started, before it is ended all the same."""
PR_SET_PDEATHSIG = 1
TERMINATION_SIGNALS = (signal.SIGINT, signal.SIGTERM)
SHELLS = {"sh", "dash", "bash", "zsh", "fish", "ksh"}


class Terminated(BaseException):
    """SIGTERM, as an exception that unwinds the stack as KeyboardInterrupt does."""


@contextmanager
def graceful_termination() -> Iterator[None]:
    """Let the first SIGTERM or Ctrl-C unwind the block, in UNWIND_S at most; ignore those that follow.

    Whoever stops what it has started must not be stopped in that. Should the exception get lost, as
    in a destructor, the alarm ends us, and the guards of what has been started do the rest.
    """
    handled = [number for number in TERMINATION_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]

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


def exit_with_parent(poll_s: float = 0.5) -> None:
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


def kill_with_parent(parent: int) -> None:
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
def defer_signals() -> Iterator[None]:
    """Hold back SIGINT and SIGTERM until the block has ended.

    They are not blocked, as a child would inherit that; what is ignored stays ignored.
    """
    came: list[int] = []
    handled = [number for number in TERMINATION_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
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
