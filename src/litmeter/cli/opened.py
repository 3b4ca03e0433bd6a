"""Which files below a folder are opened, by whatever program, as the kernel says it: inotify(7)."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import source_from_cache
from pathlib import Path

IN_MODIFY, IN_OPEN, IN_CREATE, IN_Q_OVERFLOW = 0x2, 0x20, 0x100, 0x4000
EVENT = struct.Struct("iIII")
MOST_BYTES = 2**20
"""Of events that are read at once."""
ENVIRONMENT = {"pyvenv.cfg", "conda-meta"}
"""What a virtual environment's folder has; its files belong to packages."""


NAMED_FOLDERS = 3
"""Of those that were not watched; more are counted."""


@dataclass(frozen=True)
class Opened:
    """Files that were opened, and neither made nor changed.

    Attributes:
        missed: why there may be others; empty where there are none.
    """

    files: set[Path]
    missed: str = ""


@contextmanager
def opened_below(*below: Path) -> Iterator[Callable[[], Opened]]:
    """The function returns which files below these folders were opened since.

    Of a compiled module it is the source. Hidden files, environments and files behind links are left out.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "inotify_init1"):
        yield lambda: Opened(set(), "this system does not say which files are opened")
        return
    descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        missed = f"no folder could be watched: {_reason(ctypes.get_errno(), 'instances')}"
        yield lambda: Opened(set(), missed)
        return
    watches: dict[int, Path] = {}
    unwatched: list[Path] = []
    reason = ""
    try:
        for folder in (each for root in below for each in _folders(root)):
            watch = libc.inotify_add_watch(descriptor, os.fsencode(folder), IN_OPEN | IN_CREATE | IN_MODIFY)
            if watch >= 0:
                watches[watch] = folder
            elif (number := ctypes.get_errno()) != errno.ENOENT:  # it was removed meanwhile
                unwatched.append(folder)
                reason = _reason(number, "watches")
        yield lambda: _opened(descriptor, watches, _unwatched(unwatched, reason))
    finally:
        os.close(descriptor)


def _reason(number: int, limited: str) -> str:
    """Why inotify failed; its limits pass for a full disk, or for too many open files."""
    if number in (errno.ENOSPC, errno.EMFILE):
        return f"the limit fs.inotify.max_user_{limited} is reached"
    return os.strerror(number)


def _unwatched(folders: Sequence[Path], reason: str) -> str:
    if not folders:
        return ""
    more = len(folders) - NAMED_FOLDERS
    named = ", ".join(map(str, folders[:NAMED_FOLDERS])) + (f" and {more} more" if more > 0 else "")
    return f"not watched: {named} ({reason})"


def _folders(folder: Path) -> Iterator[Path]:
    for path, names, files in os.walk(folder):
        names[:] = [name for name in names if not name.startswith(".")]
        if ENVIRONMENT.isdisjoint([*names, *files]):
            yield Path(path)
        else:
            names.clear()


def _opened(descriptor: int, watches: dict[int, Path], missed: str) -> Opened:
    opened, written = set[Path](), set[Path]()
    with suppress(BlockingIOError):  # there are no more events
        while True:
            events, place = os.read(descriptor, MOST_BYTES), 0
            while place < len(events):
                watch, mask, _, length = EVENT.unpack_from(events, place)
                begin, place = place + EVENT.size, place + EVENT.size + length
                if mask & IN_Q_OVERFLOW:
                    lost = "more was opened at once than fs.inotify.max_queued_events"
                    missed = "; ".join(filter(None, [missed, lost]))
                if watch in watches:
                    found = opened if mask & IN_OPEN else written
                    found.add(watches[watch] / os.fsdecode(events[begin:place].rstrip(b"\0")))
    files = set()
    for path in opened - written:
        with suppress(ValueError):  # compiled, and not in a __pycache__
            source = Path(source_from_cache(path)) if path.suffix == ".pyc" else path
            if source.is_file() and not source.name.startswith("."):
                files.add(source)
    return Opened(files, missed)
