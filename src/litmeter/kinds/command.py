"""Whatever a command starts: it is given a port, and listens there."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import shorten
from typing import Any, ClassVar

import psutil
from pydantic import Field, field_validator

from litmeter.direct.binding import LOOPBACK
from litmeter.errors import ServerError
from litmeter.kinds.configuration import Configuration, Given, Tried
from litmeter.kinds.server import (
    HEALTH,
    PREDICT,
    READY_POLL_S,
    READY_S,
    Server,
    Start,
    StartedServer,
    started,
    status_of,
    with_modules,
)
from litmeter.load.bodies import Bodies
from litmeter.system.processes import followed, named, send_signal, tree

STOP_S = 5.0
"""How long a server may take to end after SIGTERM."""
LONG_PAUSE_S, HEAD_START_S = 10.0, 1.25
"""After a pause of LONG_PAUSE_S, workers continue HEAD_START_S before their supervisor."""
LOOKS, LOOK_AGAIN_S = 5, 0.1
"""How often the processes that listen are looked up: sockets appear and are inherited meanwhile, but a
stranger's socket stays."""
REACHED_BY_LOOPBACK = {LOOPBACK, "0.0.0.0", "::"}
NO_HEALTH = (404, 405, 501)
"""What a server without HEALTH answers there."""
SETTLE_S = 1.0
"""How long a main process that is busy is watched, as it may be about to end."""
BUSY = (psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP)
LONGEST = 60
"""Characters of a command in a table."""


class Command(Configuration):
    """A server that a command starts."""

    kind = key = "command"

    command: str = Field(description="starts a server of your own; {port} stands for its port")
    ready: str | None = Field(
        None,
        description="path from / on that answers 200 once it is ready; absent: /health, if it has one",
        pattern="^/",
    )
    path: str = Field(PREDICT, description="path that requests are sent to, from / on", pattern="^/")
    folder: str | None = Field(None, description="where it is started; absent: the project's")

    @field_validator("command")
    @classmethod
    def _check_port(cls, command: str) -> str:
        if "{port}" not in command:
            raise ValueError(f"got {command!r}; {{port}} is missing, where its port stands")
        return command

    @classmethod
    def recognised(cls, given: Given) -> dict[str, Any] | None:
        """Whatever no kind before it recognises."""
        return {
            "command": given.text,
            "ready": given.ready,
            "path": given.path_or_default,
            "folder": str(Path.cwd()),
        }

    @property
    def spec(self) -> str:
        """The command."""
        return self.command

    def describe(self, device: str) -> str:
        """The command, shortened: its settings are options of its own."""
        return shorten(self.command, LONGEST, placeholder=" ...")

    def starting(self, how: Start) -> AbstractContextManager[Server]:
        """Run the command; its log has all that it prints."""
        return started(
            self._words(),
            how,
            self.path,
            command_variables(self.environment(), self.place),
            folder=self.place,
            follow=self.command,
            stop_s=STOP_S,
            server=CommandServer,
            health=self.ready or HEALTH,
            names_health=self.ready is not None,
        )

    def _words(self) -> list[str]:
        """The command's words; raise ServerError where it is no command, or starts no program."""
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            raise ServerError(f"command ({self.command!r}): {error}") from error
        return checked_program(words, self.place or Path())

    def check_there(self) -> None:
        """The program."""
        self._words()

    no_pipeline: ClassVar[str] = "a command is not run in-process"

    def init_try(self, bodies: Bodies, device: str) -> Tried:
        """Suggest to compare the same command with another option."""
        return replace(super().init_try(bodies, device), another=f"command: {self.command} --option")


@dataclass
class CommandServer(StartedServer):
    """A server of which only the port is known.

    Attributes:
        names_health: whether ``health`` was given. If not, and the server has no HEALTH, it is ready once it
            answers a request.
        first_status: of its last answer to a request while it starts.
        paused: when it was last paused, on the monotonic clock.
    """

    names_health: bool = field(kw_only=True)
    first_status: int | None = field(default=None, init=False)
    paused: float = field(default=0.0, init=False)

    def is_ready(self, ask: Callable[[], int] = lambda: 200) -> bool:
        """Whether it is ready; raise ServerError where a process that the command did not start answers."""
        self.status, self.first_status = status_of(self.binding, self.health), None
        has_none = not self.names_health and self.status in NO_HEALTH
        if self.status != 200 and not has_none:
            return False
        check_listener(self.process.pid, self.binding.port)
        if has_none:
            self.first_status = ask()
        return not has_none or self.first_status == 200

    def ready(self, limit_s: float = READY_S, ask: Callable[[], int] = lambda: 200) -> None:
        """Wait also until the main process waits for something; raise ServerError if it ends instead.

        A command that starts a daemon may still run when the daemon answers already.
        """
        super().ready(limit_s, ask)
        until = time.perf_counter() + SETTLE_S
        with suppress(psutil.NoSuchProcess):
            while time.perf_counter() < until and psutil.Process(self.process.pid).status() in BUSY:
                time.sleep(READY_POLL_S)
        self.check()

    @property
    def answered(self) -> str:
        """The last answers, and what may help."""
        url = self.binding.url + self.health
        if self.status is None:
            return f": nothing has answered at {url}{self.elsewhere}"
        first = f" and {self.first_status} to a request" if self.first_status else ""
        return f": status {self.status} from {url}{first}; `ready` names a path that answers 200"

    @property
    def elsewhere(self) -> str:
        """The other ports that it listens on, as the end of a sentence."""
        ports = sorted(listening_ports(self.process.pid) - {self.binding.port})
        text = f"; it listens on port {', '.join(map(str, ports))}"
        return f"{text}: give a script with a fixed port as FILE.py" if ports else ""

    def exit_hint(self, status: int) -> str:
        """A command that starts a daemon ends at once."""
        return "; a command must stay in the foreground" if status == 0 else ""

    def pause(self) -> None:
        """Stop all processes, and remember when."""
        super().pause()
        self.paused = time.perf_counter()

    def resume(self) -> None:
        """Continue all processes; after a long pause the workers first."""
        if time.perf_counter() - self.paused > LONG_PAUSE_S:
            with suppress(psutil.NoSuchProcess):
                continue_workers(self.process.pid, self.binding.port)
        super().resume()


def checked_program(words: list[str], folder: Path) -> list[str]:
    """``words``; raise ServerError where they start no program in ``folder``."""
    if not folder.is_dir():
        raise ServerError(f"folder: there is no folder {str(folder)!r}")
    program = str(folder / words[0]) if "/" in words[0] else words[0]
    if shutil.which(program, path=search_path()) is None:
        where = f"in {folder.absolute()}" if "/" in words[0] else "on the PATH"
        raise ServerError(f"command: there is no program {words[0]!r} {where}; a shell's syntax needs sh -c")
    return words


def search_path() -> str:
    """The PATH of a command; without an active environment, ``python`` is the one that runs litmeter."""
    active = {"VIRTUAL_ENV", "CONDA_PREFIX"} & os.environ.keys()
    own = [] if active else [str(Path(sys.executable).parent)]
    return os.pathsep.join([*own, os.environ.get("PATH", os.defpath)])


def command_variables(environment: Mapping[str, str], modules: Path | None) -> dict[str, str]:
    """``environment`` of a command whose output is not held back, and whose Python finds ``modules``."""
    return with_modules(environment, modules) | {"PATH": search_path(), "PYTHONUNBUFFERED": "1"}


def continue_workers(leader: int, port: int) -> None:
    """Continue the processes of a paused server that have no children, and give them time to report.

    A supervisor such as gunicorn's, if continued together with its workers, would kill those that have not
    reported for long. A worker reports within a second, or once a connection wakes it.
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
    """Raise ServerError unless all that listen on ``port`` are processes of the server of ``leader``.

    Another process would be measured instead of the server, or beside it (SO_REUSEPORT).
    """
    for _ in range(LOOKS):
        if not (strangers := _strangers(leader, port)):
            return
        time.sleep(LOOK_AGAIN_S)
    raise ServerError(f"port {port} is held by {', '.join(strangers)}, which the command has not started")


def listening_ports(leader: int) -> set[int]:
    """The ports on which the server of ``leader`` listens; empty if that is not known."""
    found: set[int] = set()
    with suppress(psutil.Error):
        for process in tree(leader):
            with suppress(psutil.Error):
                listeners = process.net_connections("tcp")
                found |= {one.laddr.port for one in listeners if one.status == psutil.CONN_LISTEN}
    return found


def _strangers(leader: int, port: int) -> list[str]:
    """Processes that listen on ``port`` and are not of the server of ``leader``, by name and process id."""

    def listens(connection: Any) -> bool:
        here = connection.laddr.port == port and connection.laddr.ip in REACHED_BY_LOOPBACK
        return here and connection.status == psutil.CONN_LISTEN

    try:
        found = {one.pid for one in psutil.net_connections("tcp") if listens(one)}
    except psutil.AccessDenied:  # macOS shows a process only its own connections
        own = followed(leader)
        found = {process.pid for process in own if any(map(listens, process.net_connections("tcp")))}
    # Looked up last: a server that is starting forks processes, which share its socket.
    others = (found or {None}) - {process.pid for process in followed(leader)}
    return [
        "a process that cannot be seen" if pid is None else named(pid)
        for pid in others
        if pid is None or psutil.pid_exists(pid)
    ]
