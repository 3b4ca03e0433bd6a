"""Temporary folders and files, and removal of those that a killed run has left.

Each has a recognisable name, and is locked while it is in use. The kernel frees the locks of a dead
process, so that a temporary file without a lock is stale.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from litmeter.errors import UsageError
from litmeter.paths import INDEX, RESULT_FOLDERS
from litmeter.system.signals import defer_signals

PREFIX = ".litmeter-"
TEMPORARY_SUFFIX = ".litmeter.tmp"
"""Ending of the names of result files that are being written."""


@contextmanager
def scratch() -> Iterator[Path]:
    """Create a temporary folder; remove it when the block is left.

    Used as TMPDIR of child processes that may be killed, it takes along what they leave there. Its
    name is short, as they create sockets in it, whose paths may have a hundred characters.
    """
    with ExitStack() as cleanup:
        with defer_signals():  # until the folder's removal is registered
            folder, lock = _claimed_folder()
            cleanup.callback(os.close, lock)
            cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


def folder_of(pid: int) -> Path:
    """Where a process leaves files that it needs to its end; who replaces one that was killed removes it."""
    return Path(tempfile.gettempdir()) / f"of-{pid}"


def lasting_log(name: str) -> Path:
    """Where the log of the last try of what has this name stays; raise UsageError if it is not one's own."""
    folder = Path(tempfile.gettempdir()) / f"litmeter-{os.getuid()}-logs"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise UsageError(f"{folder}: belongs to somebody else")
    return folder / (re.sub(r"[^\w.-]", "_", name) + ".log")


def _claimed_folder() -> tuple[Path, int]:
    """Create a temporary folder and lock it; another, if a run that looks for stale ones was faster."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        with suppress(BlockingIOError, FileNotFoundError):
            lock = claim(folder)
            if folder.exists():
                return folder, lock
            os.close(lock)


def claim(path: Path) -> int:
    """Lock a file or folder until the returned descriptor is closed, or raise BlockingIOError."""
    lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise
    except OSError:  # a file system without locks: nothing on it counts as stale
        pass
    return lock


def remove_stale_files() -> list[Path]:
    """Remove the temporary folders and half-written results of dead processes; return their paths."""
    candidates = [*Path(tempfile.gettempdir()).glob(PREFIX + 8 * "[a-z0-9_]")]  # as mkdtemp names them
    pattern = f".*{TEMPORARY_SUFFIX}"
    candidates += [*Path().glob(pattern), *INDEX.parent.glob(pattern)]
    candidates += [path for folder in RESULT_FOLDERS for path in folder.rglob(pattern)]
    return sorted(path for path in candidates if _remove_if_stale(path))


def report_stale_files(stage: str) -> None:
    """Remove stale files, and name them in one line that begins with ``stage``."""
    if removed := remove_stale_files():
        print(f"{stage}: removed what a killed run has left: {', '.join(map(str, removed))}", file=sys.stderr)


def _remove_if_stale(path: Path) -> bool:
    """Remove ``path`` if it is this user's and not locked; whether it was removed."""
    with suppress(OSError):
        lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            if os.fstat(lock).st_uid != os.geteuid():
                return False
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
            return True
        finally:
            os.close(lock)
    return False
