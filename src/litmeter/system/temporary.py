"""Temporary folders and files, and removal of those that killed runs have left.

Temporary files have recognisable names, and are locked while in use. The kernel frees a dead process's locks,
so a temporary file without a lock is stale.
"""

from __future__ import annotations

import errno
import fcntl
import functools
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
"""Suffix of result files that are being written."""
SET_STATE = "set XDG_STATE_HOME to a folder of your own on a local disk"


@contextmanager
def scratch() -> Iterator[Path]:
    """Create a temporary folder; remove it after the block.

    As TMPDIR of child processes that may be killed, it also holds their leftovers. Its name is short because
    children create sockets in it, and a socket's path has about a hundred characters at most.
    """
    with ExitStack() as cleanup:
        with defer_signals():  # until the folder's removal is registered
            folder, lock = _claimed_folder()
            cleanup.callback(os.close, lock)
            cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


def folder_of(pid: int) -> Path:
    """Folder for files that a process needs to its end; the supervisor removes a killed worker's folder."""
    return Path(tempfile.gettempdir()) / f"of-{pid}"


@functools.cache
def own_folder() -> Path:
    """This user's folder for what outlasts a run, the same whatever TMPDIR is; raise UsageError without any.

    In the folder of temporary files, where others can make one of this name, only if there is no home.
    """
    state = Path(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"))
    said = ""
    for folder in (state / "litmeter", Path(tempfile.gettempdir()) / f"litmeter-{os.getuid()}"):
        try:
            if not folder.is_absolute():
                raise FileNotFoundError(errno.ENOENT, "no home folder")
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                raise PermissionError(errno.EPERM, "a link, or somebody else's")
            folder.chmod(0o700)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            said += f"{folder} cannot be used ({error.strerror}); "
            continue
        if said:
            print(f"note: {said}the machine's lock and logs are in {folder}", file=sys.stderr)
        return folder
    raise UsageError(said + SET_STATE)


def lasting_log(name: str) -> Path:
    """Path of a log that outlasts this run, by name; raise UsageError as ``own_folder``."""
    return own_folder() / (re.sub(r"[^\w.-]", "_", name) + ".log")


def _claimed_folder() -> tuple[Path, int]:
    """Create and lock a temporary folder; try again if another run took it for stale before the lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        with suppress(BlockingIOError, FileNotFoundError):
            lock = claim(folder)
            if folder.exists():
                return folder, lock
            os.close(lock)


def claim(path: Path) -> int:
    """Lock a file or folder until the returned descriptor is closed; raise BlockingIOError if locked."""
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
    """Remove temporary folders and half-written results of dead processes; return their paths."""
    candidates = [*Path(tempfile.gettempdir()).glob(PREFIX + 8 * "[a-z0-9_]")]  # mkdtemp's names
    pattern = f".*{TEMPORARY_SUFFIX}"
    candidates += [*Path().glob(pattern), *INDEX.parent.glob(pattern)]
    candidates += [path for folder in RESULT_FOLDERS for path in folder.rglob(pattern)]
    return sorted(path for path in candidates if _remove_if_stale(path))


def report_stale_files(stage: str) -> None:
    """Remove stale files; print their paths after ``stage``."""
    if removed := remove_stale_files():
        said = "removed what a killed run has left, as yours, and no process has its lock"
        print(f"{stage}: {said}: {', '.join(map(str, removed))}", file=sys.stderr)


def _remove_if_stale(path: Path) -> bool:
    """Remove this user's unlocked ``path``; whether it was removed."""
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
