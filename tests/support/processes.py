"""Processes of this machine."""

from __future__ import annotations

import os

import psutil


def descendants_mentioning(text: str) -> list[int]:
    """Ids of those of ``processes_mentioning`` that this process, or one of its children, has started."""
    own = {process.pid for process in psutil.Process().children(recursive=True)}
    return [pid for pid in processes_mentioning(text) if pid in own]


def processes_mentioning(text: str) -> list[int]:
    """Ids of living processes, other than this one, whose command line holds ``text``."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline", "status"])
        if text in " ".join(process.info["cmdline"] or [])
        and process.info["status"] != psutil.STATUS_ZOMBIE
        and process.pid != os.getpid()
    ]
