"""Files below some folders that any program opens, reported by Linux: inotify(7)."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import source_from_cache
from pathlib import Path

IN_MODIFY, IN_OPEN, IN_CREATE, IN_Q_OVERFLOW = 0x2, 0x20, 0x100, 0x4000
EVENT = struct.Struct("iIII")
READ_BYTES = 2**20
"""Events are read in pieces of at most this size."""
ENVIRONMENT = {"pyvenv.cfg", "conda-meta"}
"""A folder with one of these is a virtual environment, whose files belong to packages."""
NAMED_FOLDERS = 3
"""Most folders that are named as not watched; the others are counted."""


@dataclass(frozen=True)
class Opened:
    """Files that were opened, and neither created nor changed; ``missed`` says why others may be missing."""

    files: set[Path]
    missed: str = ""


@contextmanager
def opened_below(*roots: Path) -> Iterator[Callable[[], Opened]]:
    """Yield a function that returns which files below ``roots`` were opened since.

    A compiled module counts as its source. Hidden files, environments and files behind links are left out.
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
    unwatched: list[str] = []
    reason = missed = ""
    try:
        for folder in (folder for root in roots for folder in _folders(root)):
            watch = libc.inotify_add_watch(descriptor, os.fsencode(folder), IN_OPEN | IN_CREATE | IN_MODIFY)
            if watch >= 0:
                watches[watch] = folder
            elif (number := ctypes.get_errno()) != errno.ENOENT:  # ENOENT: it was removed meanwhile
                unwatched.append(str(folder))
                reason = _reason(number, "watches")
        if unwatched:
            more = len(unwatched) - NAMED_FOLDERS
            named = ", ".join(unwatched[:NAMED_FOLDERS]) + (f" and {more} more" if more > 0 else "")
            missed = f"not watched: {named} ({reason})"
        yield lambda: _opened(descriptor, watches, missed)
    finally:
        os.close(descriptor)


def _reason(number: int, limited: str) -> str:
    """Why inotify failed; the errors of its limits read like a full disk, or too many open files."""
    if number in (errno.ENOSPC, errno.EMFILE):
        return f"the limit fs.inotify.max_user_{limited} is reached"
    return os.strerror(number)


def _folders(root: Path) -> Iterator[Path]:
    for path, names, files in os.walk(root):
        names[:] = [name for name in names if not name.startswith(".")]
        if ENVIRONMENT.isdisjoint([*names, *files]):
            yield Path(path)
        else:
            names.clear()


def _opened(descriptor: int, watches: dict[int, Path], missed: str) -> Opened:
    opened, written = set[Path](), set[Path]()
    with suppress(BlockingIOError):  # raised once all events are read
        while True:
            events, place = os.read(descriptor, READ_BYTES), 0
            while place < len(events):
                watch, mask, _, length = EVENT.unpack_from(events, place)
                begin, place = place + EVENT.size, place + EVENT.size + length
                if mask & IN_Q_OVERFLOW:
                    lost = "more was opened at once than fs.inotify.max_queued_events"
                    missed = "; ".join(filter(None, [missed, lost]))
                if watch in watches:
                    path = watches[watch] / os.fsdecode(events[begin:place].rstrip(b"\0"))
                    (opened if mask & IN_OPEN else written).add(path)
    files = set()
    for path in opened - written:
        with suppress(ValueError):  # a compiled file outside of __pycache__ has no known source
            source = Path(source_from_cache(path)) if path.suffix == ".pyc" else path
            if source.is_file() and not source.name.startswith("."):
                files.add(source)
    return Opened(files, missed)
