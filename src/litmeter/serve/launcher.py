"""Launches a server, as a context manager or in the foreground, and waits until it is ready."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path

import psutil

from litmeter.errors import ModelError, ServerError, UsageError
from litmeter.model.card import check_code, read_card
from litmeter.model.environment import worker_environment
from litmeter.params import ServeSettings
from litmeter.paths import ModelFolders
from litmeter.say.progress import print_wrapped
from litmeter.serve.binding import KEY_VARIABLE, LOG_VARIABLE, Binding
from litmeter.serve.command import (
    LONG_PAUSE_S,
    STOP_S,
    check_listener,
    continue_workers,
    listening_ports,
    search_path,
    words_of,
)
from litmeter.system.processes import log_tail, process_group, send_signal, tree
from litmeter.system.temporary import lasting_log, scratch

READY_S = 180.0
"""How long the workers may take to load the model."""
READY_POLL_S = 0.05
DOUBT_S = 5.0
"""How long an answer such as 404 to ``ready`` is taken for one of a server that starts."""
HEALTH = "/health"
NO_HEALTH = (404, 405, 501)
"""Statuses of its answer where a command's server has none."""
SETTLE_S = 1.0
"""How long a command's main process is watched that does not wait for anything, as if it were to end."""
BUSY = (psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP)
LOCAL = Binding(0)
"""127.0.0.1, at a free port that the kernel chooses."""
LONGEST_FOLDER = 107 - len("/pymp-xxxxxxxx/listener-xxxxxxxx")
"""Bytes of a temporary folder's path: LitServe's multiprocessing manager makes a socket in it (unix(7))."""
EXIT_GRACE_S = 15.0
"""How long a server may take to exit after it has drained."""


@dataclass
class RunningServer:
    """A server whose processes have been started; it answers when ``ready`` has returned."""

    process: subprocess.Popen[bytes]  # its main process, the root of its process tree
    settings: ServeSettings
    binding: Binding
    log: Path  # file with its output
    started: float  # when, on the monotonic clock
    ready_s: float = 0.0  # seconds from its start until it was ready
    paused: float = 0.0  # when it was last, on the monotonic clock
    status: int | None = None  # of its last answer to ``health``
    first_status: int | None = None  # of its last answer to a request, where it has no ``health``

    @property
    def url(self) -> str:
        """Its URL, without a slash at the end."""
        return self.binding.url

    @property
    def pid(self) -> int:
        """Process id of its main process."""
        return self.process.pid

    @property
    def health(self) -> str:
        """The path that answers 200 once it is ready."""
        return self.settings.ready or HEALTH

    def ready(self, limit_s: float = READY_S, ask: Callable[[], int] = lambda: 200) -> RunningServer:
        """Wait until it is ready; return the server itself.

        It is once ``health`` answers with 200. A command for which no path was given, and that has no
        ``/health``, is once a request does.

        Args:
            ask: sends that request, and returns the status of its answer.

        Raises:
            ServerError: the server died, or was not ready within ``limit_s`` of its start, or the port of a
                command is held by a process that it has not started.
        """
        say_after_s = DOUBT_S
        while (waited_s := time.perf_counter() - self.started) < limit_s:
            is_ready = self.is_ready(ask)
            self.check()
            if is_ready:
                self.ready_s = time.perf_counter() - self.started
                self._settle()
                return self
            status = self.first_status or self.status
            if waited_s > say_after_s and (self.elsewhere if status is None else status < 500):
                print_wrapped(f"still waiting for the server{self.answered}")
                say_after_s = limit_s
            time.sleep(READY_POLL_S)
        raise ServerError(
            f"the server was not ready within {limit_s:.0f} s{self.answered}{log_tail(self.log)}"
        )

    def is_ready(self, ask: Callable[[], int] = lambda: 200) -> bool:
        """Whether it is ready, as ``ready`` has it; raise ServerError where another process answers."""
        self.status, self.first_status = status_of(self.binding, self.health), None
        if self.settings.kind != "command":
            return self.status == 200
        has_none = self.settings.ready is None and self.status in NO_HEALTH
        if self.status != 200 and not has_none:
            return False
        check_listener(self.pid, self.binding.port)
        if has_none:
            self.first_status = ask()
        return not has_none or self.first_status == 200

    def _settle(self) -> None:
        """Wait until a command's main process waits for something; raise ServerError where it ends.

        One that has gone to the background may not have ended yet when the other answers.
        """
        until = time.perf_counter() + (SETTLE_S if self.settings.kind == "command" else 0.0)
        with suppress(psutil.NoSuchProcess):
            while time.perf_counter() < until and psutil.Process(self.pid).status() in BUSY:
                time.sleep(READY_POLL_S)
        self.check()

    @property
    def answered(self) -> str:
        """What a command's server answered last, to append to what is said of it."""
        if self.settings.kind != "command":
            return ""
        url = self.url + self.health
        if self.status is None:
            return f": nothing has answered at {url}{self.elsewhere}"
        first = f" and {self.first_status} to a request" if self.first_status else ""
        return f": status {self.status} from {url}{first}; `ready` names a path that answers 200"

    @property
    def elsewhere(self) -> str:
        """Where a command listens that does not at its port, to append to what is said of it."""
        ports = ", ".join(map(str, sorted(listening_ports(self.pid) - {self.binding.port})))
        return f"; it listens on port {ports}" if ports and self.settings.kind == "command" else ""

    def pause(self) -> None:
        """Stop all its processes (SIGSTOP), so that it takes no CPU time; no request must be in flight."""
        self._signal(signal.SIGSTOP)
        self.paused = time.perf_counter()

    def resume(self) -> None:
        """Continue its processes (SIGCONT)."""
        if self.settings.kind == "command" and time.perf_counter() - self.paused > LONG_PAUSE_S:
            with suppress(psutil.NoSuchProcess):
                continue_workers(self.pid, self.binding.port)
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, psutil.NoSuchProcess):  # it has died: ``check`` says so
            os.killpg(self.pid, number)
            if self.settings.kind != "classifier":  # one's own server may have processes outside the group
                send_signal(tree(self.pid), number)

    def check(self) -> None:
        """Raise ServerError, with the end of its log, if the server has died."""
        status = self.process.poll()
        if status is not None:
            daemon = self.settings.kind == "command" and status == 0
            hint = "; a command must stay in the foreground" if daemon else ""
            raise ServerError(f"the server died (exit status {status}{hint}){log_tail(self.log)}")


@contextmanager
def starting_server(
    folders: ModelFolders,
    settings: ServeSettings,
    device: str,
    timeout_s: float,
    binding: Binding = LOCAL,
    *,
    null_model: bool = False,
    in_foreground: bool = False,
) -> Iterator[RunningServer]:
    """Serve what ``settings`` name until the block is left, which begins at once.

    Args:
        timeout_s: how long a request may wait in the server's queue.
        null_model: serve the null model, which does no work, instead.
        in_foreground: with the log on the terminal, and the API key of the environment; else without one, as
            the load generator sends none.

    Raises:
        ServerError: the port is taken, or a command starts no program.
    """
    with bound_socket(binding) as listener, scratch() as folder, (log := folder / "log").open("wb") as output:
        environment = worker_environment(settings)
        if not in_foreground:
            environment.pop(KEY_VARIABLE, None)
        if settings.folder is not None:
            environment["PYTHONPATH"] = module_path(Path(settings.folder), environment.get("PYTHONPATH"))
        binding = replace(binding, port=listener.getsockname()[1])
        if settings.kind == "command":
            words, stop_s, inherited = words_of(settings, binding.port), STOP_S, list[int]()
            listener.close()
            environment |= {"PATH": search_path(), "PYTHONUNBUFFERED": "1"}  # its log has all that it printed
        else:
            if (excess := len(os.fsencode(folder)) - LONGEST_FOLDER) > 0:
                raise UsageError(
                    f"TMPDIR: {folder.parent} is {excess} bytes too long for the path of a socket; "
                    "set it to a shorter one"
                )
            words = server_command(folders, settings, device, timeout_s, binding, listener, null_model)
            stop_s, inherited = 0.0, [listener.fileno()]  # killed at once: no client waits for an answer
            (metrics := folder / "metrics").mkdir()
            environment |= {"PROMETHEUS_MULTIPROC_DIR": str(metrics), "TMPDIR": str(folder)}
            if settings.api:
                environment[LOG_VARIABLE] = str(lasting_log(settings.api))
        started = time.perf_counter()
        with process_group(
            words,
            stdout=None if in_foreground else output,
            stderr=None if in_foreground else output,
            env=environment,
            cwd=settings.folder,
            stop_s=stop_s,
            pass_fds=inherited,
            follow=settings.command or settings.api or "",
        ) as process:
            listener.close()  # else clients of a server that has died would wait
            yield RunningServer(process, settings, binding, log, started)


def module_path(folder: Path, before: str | None) -> str:
    """PYTHONPATH with the modules of ``folder`` and its ``src`` first, also where others are installed."""
    own = [one for one in (folder.absolute() / "src", folder.absolute()) if one.is_dir()]
    return os.pathsep.join([*map(str, own), *([before] if before else [])])


def check_model(folders: ModelFolders, settings: ServeSettings) -> None:
    """Raise ModelError, with the command that makes it, unless the model that ``settings`` need exists, or if
    its weights or its code are not those of its card.
    """
    needed = {"export": folders.exported} | ({"compile": folders.compiled} if settings.compiled else {})
    if not all(folder.is_dir() for folder in needed.values()):
        raise ModelError(
            f"there is no model to serve in {Path.cwd()}; `.venv/bin/dvc repro {list(needed)[-1]}` makes it "
            "(another project: --project FOLDER)"
        )
    card = read_card(folders.exported)
    if not settings.compiled:
        check_code(card)


def serve_in_foreground(
    folders: ModelFolders, settings: ServeSettings, device: str, timeout_s: float, binding: Binding
) -> int:
    """Serve with the log on the terminal until SIGTERM or Ctrl-C; return the exit status.

    The server then drains; a second signal kills it. SIGTERM must raise SystemExit in this process. The
    status is 0 if the server was told to stop and had answered all requests.

    Args:
        timeout_s: how long a request may wait in the server's queue.
        binding: which has been checked.

    Raises:
        ServerError: the port is taken, or the server was killed.
    """
    with starting_server(folders, settings, device, timeout_s, binding, in_foreground=True) as server:
        process = server.process
        own = settings.kind != "classifier"
        print("starting the server ..." if own else "loading the model ...", flush=True)
        try:
            while process.poll() is None and not server.is_ready():
                time.sleep(READY_POLL_S)
            if process.poll() is None:
                url, seconds = binding.url, time.perf_counter() - server.started
                page = "" if own else f", and {url} is a page to try it"
                said = f"{url}{settings.path} answers{page} (Ctrl-C ends it)"
                print(f"ready after {seconds:.1f} s: {said}", flush=True)
            status = process.wait()
        except (KeyboardInterrupt, SystemExit):
            process.terminate()
            try:
                status = process.wait(settings.drain_s + EXIT_GRACE_S)
                return 0 if status == -signal.SIGTERM else status  # it had not installed its handler yet
            except subprocess.TimeoutExpired:
                raise ServerError("the server did not stop in time, and was killed") from None
    if status < 0:
        raise ServerError(f"the server's main process was killed ({signal.Signals(-status).name})")
    return status


def server_command(
    folders: ModelFolders,
    settings: ServeSettings,
    device: str,
    timeout_s: float,
    binding: Binding,
    listener: socket.socket,
    null_model: bool = False,
) -> list[str]:
    """The command line of ``python -m litmeter.serve``, which inherits ``listener``."""
    options = {
        "folders": asdict(folders),
        "settings": settings.model_dump(exclude_defaults=True),  # a revision's own code may lack keys
        "binding": asdict(binding),
        "listener": listener.fileno(),
        "device": device,
        "timeout_s": timeout_s,
        "null_model": null_model,
    }
    return [sys.executable, "-m", "litmeter.serve", json.dumps(options, default=str)]


def status_of(binding: Binding, path: str) -> int | None:
    """The status of the server's answer to GET; None without one, as it may not listen yet.

    No certificate is verified.
    """
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(binding.host, binding.host)
    connection = HTTPConnection(host, binding.port, timeout=5)
    if binding.certificate:
        unverified = ssl._create_unverified_context()
        connection = HTTPSConnection(host, binding.port, timeout=5, context=unverified)
    with closing(connection), suppress(OSError, HTTPException):
        connection.request("GET", path)
        return connection.getresponse().status
    return None


def bound_socket(binding: Binding) -> socket.socket:
    """A socket that is bound to the address of ``binding``; raise ServerError if its port is not free.

    The server inherits it, so that nobody else can take the port while the server starts.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in binding.host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((binding.host, binding.port))
    except OSError as error:
        listener.close()
        raise ServerError(f"port {binding.port} of {binding.host} is not free ({error.strerror})") from error
    return listener
