"""Servers that a command starts: any program that listens on the port that it is given."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil

from litmeter.errors import ServerError
from litmeter.params import ServeSettings
from litmeter.serve.binding import LOOPBACK
from litmeter.system.processes import followed, named, send_signal, tree

STOP_S = 5.0
"""How long a server may take to end after SIGTERM."""
LONG_PAUSE_S, HEAD_START_S = 10.0, 1.25
"""After such a pause, workers go on that long before their supervisor."""
LOOKS, LOOK_AGAIN_S = 5, 0.1
"""A socket may appear, or be inherited, while one looks; a stranger's stays."""
REACHED_BY_LOOPBACK = {LOOPBACK, "0.0.0.0", "::"}


def words_of(settings: ServeSettings, port: int) -> list[str]:
    """The words of ``command`` with its port; raise ServerError where it is none, or starts no program."""
    assert settings.command is not None
    try:
        words = [word.replace("{port}", str(port)) for word in shlex.split(settings.command)]
    except ValueError as error:
        raise ServerError(f"command ({settings.command!r}): {error}") from error
    folder = Path(settings.folder or "")
    if not folder.is_dir():
        raise ServerError(f"folder: there is no folder {settings.folder!r}")
    program = str(folder / words[0]) if "/" in words[0] else words[0]
    if shutil.which(program, path=search_path()) is None:
        where = f"in {folder.absolute()}" if "/" in words[0] else "on the PATH"
        raise ServerError(f"command: there is no program {words[0]!r} {where}; a shell's syntax needs sh -c")
    return words


def search_path() -> str:
    """The PATH of a command: where no environment is active, ``python`` is the one that runs this."""
    active = {"VIRTUAL_ENV", "CONDA_PREFIX"} & os.environ.keys()
    own = [] if active else [str(Path(sys.executable).parent)]
    return os.pathsep.join([*own, os.environ.get("PATH", os.defpath)])


def continue_workers(leader: int, port: int) -> None:
    """Continue those processes of a stopped server that have started no others, and let them report.

    A supervisor such as gunicorn's, continued with them, would kill those that have not reported for long.
    They do within a second, or once a connection wakes them.
    """
    processes = tree(leader)
    supervisors = {process.ppid() for process in processes}
    workers = [process for process in processes if process.pid not in supervisors]
    if len(workers) == len(processes):
        return
    send_signal(workers, signal.SIGCONT)
    with ExitStack() as connections, suppress(OSError):
        for _ in workers:
            connections.enter_context(socket.create_connection((LOOPBACK, port), HEAD_START_S))
        time.sleep(HEAD_START_S)


def check_listener(leader: int, port: int) -> None:
    """Raise ServerError unless those that listen on ``port`` belong to the server of ``leader``.

    Another would be measured in its place, or beside it (SO_REUSEPORT).
    """
    for _ in range(LOOKS):
        if not (strangers := _strangers(leader, port)):
            return
        time.sleep(LOOK_AGAIN_S)
    raise ServerError(f"port {port} is held by {', '.join(strangers)}, which the command has not started")


def listening_ports(leader: int) -> set[int]:
    """The ports on which the server of ``leader`` listens; empty where that is not known."""
    found: set[int] = set()
    with suppress(psutil.Error):
        for process in tree(leader):
            with suppress(psutil.Error):
                listeners = process.net_connections("tcp")
                found |= {one.laddr.port for one in listeners if one.status == psutil.CONN_LISTEN}
    return found


def _strangers(leader: int, port: int) -> list[str]:
    """Those that listen on ``port`` and are not of the server of ``leader``, by name and process id."""

    def listens(connection: Any) -> bool:
        here = connection.laddr.port == port and connection.laddr.ip in REACHED_BY_LOOPBACK
        return here and connection.status == psutil.CONN_LISTEN

    try:
        found = {one.pid for one in psutil.net_connections("tcp") if listens(one)}
    except psutil.AccessDenied:  # macOS shows each process's own alone
        own = followed(leader)
        found = {process.pid for process in own if any(map(listens, process.net_connections("tcp")))}
    # Looked at last: a server that starts forks processes, which share its socket.
    others = (found or {None}) - {process.pid for process in followed(leader)}
    return [
        "a process that cannot be seen" if pid is None else named(pid)
        for pid in others
        if pid is None or psutil.pid_exists(pid)
    ]
