"""Handling of termination signals, and processes that end with their parent."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from types import FrameType

import psutil

UNWIND_S = 60
"""Longest clean-up after a signal; then SIGALRM ends the process."""
PR_SET_PDEATHSIG = 1
TERMINATION_SIGNALS = (signal.SIGINT, signal.SIGTERM)
ENDINGS = (*TERMINATION_SIGNALS, signal.SIGHUP)
"""SIGHUP: the terminal is closed; servers have their own sessions, and do not get it."""
SHELLS = {"sh", "dash", "bash", "zsh", "fish", "ksh"}


class Terminated(BaseException):
    """SIGTERM or SIGHUP, as an exception that unwinds the stack as KeyboardInterrupt does."""


@contextmanager
def graceful_termination() -> Iterator[None]:
    """Raise an exception at the first SIGTERM, SIGHUP or Ctrl-C; ignore further ones for UNWIND_S.

    A second signal must not interrupt the clean-up. If the exception is lost, as in a destructor, an alarm
    ends this process, and the guards kill its process groups.
    """
    handled = [number for number in ENDINGS if signal.getsignal(number) != signal.SIG_IGN]

    def unwind(signum: int, frame: FrameType | None) -> None:
        for number in handled:
            signal.signal(number, signal.SIG_IGN)
        signal.alarm(UNWIND_S)
        raise KeyboardInterrupt if signum == signal.SIGINT else Terminated

    for number in handled:
        signal.signal(number, unwind)
    try:
        yield
    finally:  # nothing is left to clean up
        for number in handled:
            signal.signal(number, signal.SIG_DFL)


def exit_with_parent(poll_s: float = 0.5) -> None:
    """Send this process SIGTERM when the process that started it, perhaps through shells, has ended.

    Otherwise a stage would outlive a killed DVC. The kernel's PR_SET_PDEATHSIG covers only the direct parent,
    which may be a shell that outlives DVC; so a thread watches the parents of all shells in between. If DVC
    was killed before this call, the parent is the process that adopts orphans, in another session.
    """
    process = psutil.Process()
    shells = takewhile(lambda parent: parent.name() in SHELLS, process.parents())
    ancestry = [(one, one.ppid()) for one in (process, *shells)]
    try:
        orphan_already = "DVC_STAGE" in os.environ and os.getsid(ancestry[-1][1]) != os.getsid(0)
    except ProcessLookupError:
        orphan_already = True

    def parent_changed() -> bool:
        try:
            return any(process.ppid() != parent for process, parent in ancestry)
        except psutil.NoSuchProcess:
            return True

    def watch() -> None:
        while not (orphan_already or parent_changed()):
            time.sleep(poll_s)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="exit-with-parent", daemon=True).start()


def kill_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent, the process ``parent``, ends; Linux only."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent has ended already
        os._exit(1)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Defer ENDINGS until the block has ended; ignored signals stay ignored.

    Blocking the signals instead would be inherited by children.
    """
    deferred: list[int] = []
    handled = [number for number in ENDINGS if signal.getsignal(number) != signal.SIG_IGN]
    if threading.current_thread() is not threading.main_thread():
        handled = []  # only the main thread handles signals
    before = {number: signal.signal(number, lambda n, _: deferred.append(n)) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if deferred:
            signal.raise_signal(deferred[0])
