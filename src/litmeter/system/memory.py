"""Free memory: how much there is, and that which lies scattered."""

from __future__ import annotations

import mmap
from contextlib import suppress
from pathlib import Path
from time import monotonic

import psutil

CGROUP = Path("/sys/fs/cgroup")
FREE_BLOCKS = Path("/proc/buddyinfo")
"""Linux's free blocks, a line for each zone of memory: their numbers, of one page, two, four, and so on."""
REGION_BYTES = 2**21
"""What one entry of the tables covers by which a hypervisor finds a machine's memory."""
TAKEN_SHARE, TAKEN_BYTES = 1 / 2, 2**30
"""The most scattered memory that is taken: this share of what is available, and no more than 1 GiB, which a
laptop that is in use can spare."""
STEP_BYTES = 2**24


def available_memory() -> int:
    """Memory that is free for processes, bytes: of the machine, and of the container if it has a limit."""
    available = psutil.virtual_memory().available
    try:
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        reclaimable = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no cgroup v2, or no limit ("max")
        return available
    return min(available, limit - used + int(reclaimable.get("inactive_file", 0)))


def scattered_memory() -> int:
    """Free memory in blocks smaller than a region, bytes; 0 where the system does not say."""
    orders = (REGION_BYTES // mmap.PAGESIZE).bit_length() - 1
    try:
        zones = [line.split()[4:][:orders] for line in FREE_BLOCKS.read_text().splitlines()]
    except OSError:
        return 0
    return mmap.PAGESIZE * sum(int(count) << order for zone in zones for order, count in enumerate(zone))


class ScatteredMemory:
    """Free memory that lies scattered, held so that no server starts with it; taken in ``limit_s`` at most.

    Linux gives out the smallest free blocks first: what starts first on a machine that has run for long gets
    pages from thousands of regions. In a virtual machine each access to them that misses the caches may take
    ten times as long, and the server stays slower than its equals. Where memory runs short, Linux takes back
    what is held.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._block: mmap.mmap | None = None
        self._taken = False

    def take(self) -> None:
        """Take it, if that was not done before."""
        most = min(int(TAKEN_SHARE * available_memory()), TAKEN_BYTES)
        wanted = 0 if self._taken else min(scattered_memory(), most)
        self._taken = True
        if wanted >= STEP_BYTES:
            with suppress(OSError):  # a limit of memory
                self._block = mmap.mmap(-1, wanted, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
                self._touch(self._block)

    def _touch(self, block: mmap.mmap) -> None:
        """Have the kernel give pages, the most scattered first."""
        block.madvise(mmap.MADV_NOHUGEPAGE)  # a huge page is not scattered
        block.madvise(mmap.MADV_DONTFORK)
        until = monotonic() + self.limit_s
        for begin in range(0, len(block), STEP_BYTES):
            pages = range(begin, min(begin + STEP_BYTES, len(block)), mmap.PAGESIZE)
            block[pages.start : pages.stop : mmap.PAGESIZE] = bytes(len(pages))
            if monotonic() > until:
                break
        block.madvise(mmap.MADV_FREE)  # to be taken back, as its content does not matter

    def give_back(self) -> bool:
        """Give it back, for good; whether there was any."""
        if self._block is None:
            return False
        self._block.close()
        self._block = None
        return True
