"""Processes of this machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

import psutil
import pytest


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


def limited_inotify(limit: str, most: int, command: Sequence[str]) -> list[str]:
    """A command with a limit of its own, a file below /proc/sys/user; the test is skipped without the right.

    It runs in a user namespace, whose limits hold beside those of the machine.
    """
    inside = ["unshare", "--user", "--map-root-user", "sh", "-c"]
    if subprocess.run([*inside, f"echo 1 > /proc/sys/user/{limit}"], capture_output=True).returncode:
        pytest.skip("user namespaces are not allowed here")
    return [*inside, f'echo {most} > /proc/sys/user/{limit} && exec "$@"', "sh", *command]
