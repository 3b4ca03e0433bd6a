"""Process groups that leave nothing behind, whoever is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from servebench.errors import FREE_SPACE
from servebench.system.signals import defer_signals

LOG_TAIL_LINES = 15
NO_SPACE_BYTES = 2**16
"""Who could not write a page or a block may have left a few."""
GONE_S = 10.0
"""How long killed processes are waited for."""
HELD = 'read -r _ <"/dev/fd/$0" && exec "$@"'
"""Becomes the command once a line has come, and ends if none can come."""


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
        with defer_signals():  # until whatever has been started is sure to be stopped
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
        with defer_signals():
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
