"""Memory and file handles of a server's whole process tree."""

from __future__ import annotations

from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Held:
    """Resident memory, MiB, and file handles besides its clients' connections."""

    rss_mib: float
    handles: int


def held(root_pid: int) -> Held:
    """What a process and all below it hold now."""
    root = psutil.Process(root_pid)
    tree = [root, *root.children(recursive=True)]
    return Held(
        rss_mib=sum(own.memory_info().rss for own in tree) / 2**20,
        handles=sum(own.num_fds() - len(own.net_connections("tcp")) for own in tree),
    )
