"""A lock that lets one benchmark run at a time: two would disturb each other's measurements."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_FILE = Path(tempfile.gettempdir()) / f"litmeter-{os.getuid()}.lock"
"""One per user, outside the working tree: other clones, and DVC's queue, benchmark on the same cores."""


@contextmanager
def exclusive_machine() -> Iterator[None]:
    """Hold the machine's lock; wait, with a message, while another benchmark holds it.

    The kernel frees the lock of a process that dies.
    """
    lock = FileLock(LOCK_FILE)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"another benchmark runs on this machine; waiting for it ({LOCK_FILE})", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
