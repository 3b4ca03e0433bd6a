"""What a killed run leaves behind, and its removal by the next one.

Whatever is temporary has a name of ours and a lock while it is in use. The kernel frees the locks of a
dead process: what is not locked belongs to nobody.
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

from servebench.paths import INDEX, RESULT_FOLDERS
from servebench.system.signals import defer_signals

PREFIX = ".servebench-"
FOLDER = re.compile(rf"{re.escape(PREFIX)}[a-z0-9_]{{8}}")
"""Hidden, as no folder that a user makes is called."""
STALE_SUFFIX = ".servebench.tmp"
"""How the names of files end that are not yet whole."""


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder, gone when the block is left.

    For the TMPDIR of those who are killed rather than stopped, too: what they leave goes with it.
    Its name is short, as they put sockets into it, whose paths may have a hundred characters.
    """
    with ExitStack() as cleanup:
        with defer_signals():  # one that comes now is raised when the folder is sure to be removed
            folder = Path(tempfile.mkdtemp(prefix=PREFIX))
            cleanup.callback(os.close, claim(folder))
            cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


def claim(path: Path) -> int:
    """Lock a file or folder that is there, until the descriptor returned is closed.

    Raises:
        BlockingIOError: another process has it.
    """
    lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise
    except OSError:  # a file system without locks: nothing on it is taken for abandoned
        pass
    return lock


def remove_stale_files() -> list[Path]:
    """Remove the temporary folders and half-written results of dead processes; what there was."""
    folders = Path(tempfile.gettempdir()).glob(f"{PREFIX}*")
    found = [folder for folder in folders if FOLDER.fullmatch(folder.name)]
    pattern = f".*{STALE_SUFFIX}"
    found += [*Path().glob(pattern), *INDEX.parent.glob(pattern)]
    found += [path for folder in RESULT_FOLDERS for path in folder.rglob(pattern)]
    return sorted(path for path in found if _removed(path))


def report_stale_files(who: str) -> None:
    """Remove stale files, and say what there was in one line that begins with ``who``."""
    if found := remove_stale_files():
        print(f"{who}: removed what a killed run has left: {', '.join(map(str, found))}", file=sys.stderr)


def _removed(path: Path) -> bool:
    """Remove ``path`` if nobody uses it and it is our user's."""
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
