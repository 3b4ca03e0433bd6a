"""Servers that a command starts: any program that listens on the port that it is given."""

from __future__ import annotations

import shlex
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from litmeter.errors import ServerError
from litmeter.params import ServeSettings
from litmeter.serve.binding import LOOPBACK
from litmeter.system.processes import named, tree

STOP_S = 5.0
"""How long a server may take to end after SIGTERM."""
REACHED_BY_LOOPBACK = {LOOPBACK, "0.0.0.0", "::"}


def words_of(settings: ServeSettings, port: int) -> list[str]:
    """The words of ``command`` with its port; raise ServerError where it is none, or starts no program."""
    assert settings.command is not None
    try:
        words = [word.replace("{port}", str(port)) for word in shlex.split(settings.command)]
    except ValueError as error:
        raise ServerError(f"command ({settings.command!r}): {error}") from error
    folder = Path(settings.folder or "")
    if shutil.which(folder.absolute() / words[0] if "/" in words[0] else words[0]) is None:
        where = f"in {folder.absolute()}" if "/" in words[0] else "on the PATH"
        raise ServerError(f"command: there is no program {words[0]!r} {where}; a shell's syntax needs sh -c")
    return words


def check_listener(leader: int, port: int) -> None:
    """Raise ServerError unless those that listen on ``port`` belong to the server of ``leader``.

    Another would be measured in its place, or beside it (SO_REUSEPORT).
    """
    own = set[int | None]()
    for process in tree(leader):
        with suppress(psutil.Error):
            own |= {process.pid for one in process.net_connections("tcp") if _listens(one, port)}
    try:
        everyone = {one.pid for one in psutil.net_connections("tcp") if _listens(one, port)}
    except psutil.AccessDenied:  # not allowed on macOS
        everyone = own
    if others := everyone - own:
        holders = ", ".join("another user's process" if pid is None else named(pid) for pid in others)
        raise ServerError(f"port {port} is held by {holders}, which the command has not started")
    if not own:
        raise ServerError(f"port {port} is held by a process that the command has not started")


def _listens(connection: Any, port: int) -> bool:
    local = connection.laddr
    return connection.status == psutil.CONN_LISTEN and local.port == port and local.ip in REACHED_BY_LOOPBACK
