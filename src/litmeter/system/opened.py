"""Which files below a folder are opened, by whatever program, as the kernel says it: inotify(7)."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import source_from_cache
from pathlib import Path

IN_MODIFY, IN_OPEN, IN_CREATE = 0x2, 0x20, 0x100
EVENT = struct.Struct("iIII")
MOST_BYTES = 2**20
"""Of events that are read at once."""
ENVIRONMENT = {"pyvenv.cfg", "conda-meta"}
"""What a virtual environment's folder has; its files belong to packages."""


@contextmanager
def opened_below(*below: Path) -> Iterator[Callable[[], set[Path]]]:
    """The function returns which files below these folders were opened since, and neither made nor changed.

    Of a compiled module it is the source. Hidden files, environments and files behind links are left out.
    Where the system has no inotify (macOS), it is none.
    """
    libc = ctypes.CDLL(None)
    descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(libc, "inotify_init1") else -1
    if descriptor < 0:
        yield set
        return
    try:
        watches = {
            libc.inotify_add_watch(descriptor, os.fsencode(each), IN_OPEN | IN_CREATE | IN_MODIFY): each
            for folder in below
            for each in _folders(folder)
        }
        yield lambda: _opened(descriptor, watches)
    finally:
        os.close(descriptor)


def _folders(folder: Path) -> Iterator[Path]:
    for path, names, files in os.walk(folder):
        names[:] = [name for name in names if not name.startswith(".")]
        if ENVIRONMENT.isdisjoint([*names, *files]):
            yield Path(path)
        else:
            names.clear()


def _opened(descriptor: int, watches: dict[int, Path]) -> set[Path]:
    opened, written = set[Path](), set[Path]()
    with suppress(BlockingIOError):  # there are no more events
        while True:
            events, place = os.read(descriptor, MOST_BYTES), 0
            while place < len(events):
                watch, mask, _, length = EVENT.unpack_from(events, place)
                begin, place = place + EVENT.size, place + EVENT.size + length
                if watch in watches:  # not where events were lost
                    found = opened if mask & IN_OPEN else written
                    found.add(watches[watch] / os.fsdecode(events[begin:place].rstrip(b"\0")))
    files = set()
    for path in opened - written:
        with suppress(ValueError):  # compiled, and not in a __pycache__
            source = Path(source_from_cache(path)) if path.suffix == ".pyc" else path
            if source.is_file() and not source.name.startswith("."):
                files.add(source)
    return files
