"""One benchmark at a time per machine and user: two would measure each other."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_FILE = Path(tempfile.gettempdir()) / f"servebench-{os.getuid()}.lock"
"""Outside the tree: other clones, and DVC's queue, benchmark on the same cores."""


@contextmanager
def exclusive_machine() -> Iterator[None]:
    """Wait, and say so, until no other benchmark runs; the kernel frees the lock of a dead holder."""
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
