"""Servers that are measured: those that run already, and those that are started here and ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any

import psutil

from litmeter.direct.binding import KEY_VARIABLE, PATH_FILE, Binding
from litmeter.errors import ServerError, UsageError
from litmeter.say.progress import print_wrapped
from litmeter.system.processes import cpu_seconds, log_tail, process_group, send_signal, tree
from litmeter.system.temporary import scratch

READY_S = 60.0
"""How long a server that is not ready is waited for after its last sign of life."""
MOST_LIMITS, LOOK_S, ALIVE_CORES = 10, 1.0, 0.1
"""In all it is waited for so many times READY_S; a sign of life is CPU time of so many cores in LOOK_S."""
READY_POLL_S = 0.05
DOUBT_S = 5.0
"""After so long without 200 from the health check, litmeter says what was answered instead."""
TOO_LONG = " after {:.0f} s without a sign of life (--ready-s, or the key ready_s, allows more)"
DYING_S = 0.5
"""How long a server that a request kills may take to end."""
PORT_VARIABLE = "LITMETER_PORT"
HEALTH, METRICS, PREDICT = "/health", "/metrics", "/predict"
LOCAL = Binding(0)
"""127.0.0.1, at a free port that the kernel chooses."""
LONGEST_FOLDER = 107 - len("/pymp-xxxxxxxx/listener-xxxxxxxx")
"""Bytes of a temporary folder's path: LitServe's multiprocessing manager makes a socket in it (unix(7))."""
EXIT_GRACE_S = 15.0
"""How long a server may take to exit after it has drained."""


@dataclass(frozen=True)
class Start:
    """How a server is to be started.

    Attributes:
        device: cpu or cuda.
        timeout_s: how long a request may wait in the server's queue.
        null: serve without a model: requests do no work.
        in_foreground: log to the terminal, and require the API key of the environment. Otherwise the server
            has no key, as the load generator sends none.
    """

    device: str
    timeout_s: float
    binding: Binding = LOCAL
    null: bool = False
    in_foreground: bool = False


def looks(
    pid: int, log: Path, limit_s: float, is_asked: Callable[[], bool] = lambda: False
) -> Iterator[tuple[float, float]]:
    """Seconds since the begin, and since the last sign of life of processes that start, again and again.

    ``pid`` is their root. A sign of life is CPU time, or a longer ``log``, unless they may log requests.
    """
    began = alive = looked = time.perf_counter()
    cpu_s, log_bytes = 0.0, 0
    while True:
        now, before_s, before_bytes = time.perf_counter(), cpu_s, log_bytes
        if (past_s := now - looked) >= LOOK_S:
            looked, cpu_s, log_bytes = now, cpu_seconds(pid), log.stat().st_size
            if cpu_s - before_s > ALIVE_CORES * past_s or (log_bytes > before_bytes and not is_asked()):
                alive = now
        yield now - began, now - (alive if now - began < MOST_LIMITS * limit_s else began)
        time.sleep(READY_POLL_S)


@dataclass
class Server:
    """A server that runs already, here or elsewhere.

    Attributes:
        target: URL that requests are sent to.
        metrics: URL of the server's counters; None where it has none.
        pid: of the main process, the root of the server's process tree; None where it runs elsewhere.
        ready_s: seconds from start to ready; None where the server ran already.
    """

    target: str
    metrics: str | None = None
    pid: int | None = field(default=None, init=False)
    ready_s: float | None = field(default=None, init=False)

    def ready(self, limit_s: float = READY_S, ask: Callable[[], int] = lambda: 200) -> None:
        """Wait until the server is ready, ``limit_s`` after its last sign of life at most.

        ``ask`` sends a request and returns its status, for servers without a health check.
        """

    def pause(self) -> None:
        """Stop using CPU time; called while no request is in flight."""

    def resume(self) -> None:
        """Continue after ``pause``."""

    def counted(self) -> tuple[int, Mapping[int, str]] | None:
        """Batches so far, and roles of processes by id; None where they are unknown or in ``metrics``."""
        return None

    def check(self, dying_s: float = 0.0) -> None:
        """Raise ServerError if the server has died, or dies within ``dying_s``."""

    @property
    def log_end(self) -> str:
        """The end of its log, to append to a message; empty without a log."""
        return ""


@dataclass
class StartedServer(Server):
    """A server whose main process was started here; it answers once ``ready`` has returned.

    Attributes:
        log: file with the server's output.
        started: when the process was started, on the monotonic clock.
        health: path that answers 200 once the server is ready.
        followed: whether processes of it may leave its process group, and are paused all the same.
    """

    process: subprocess.Popen[bytes] = field(kw_only=True)
    binding: Binding = field(kw_only=True)
    log: Path = field(kw_only=True)
    started: float = field(kw_only=True)
    health: str = field(default=HEALTH, kw_only=True)
    followed: bool = field(default=False, kw_only=True)
    status: int | None = field(default=None, init=False)  # of the last answer to ``health``

    def __post_init__(self) -> None:
        self.pid = self.process.pid

    @property
    def url(self) -> str:
        """The server's URL, without a slash at the end."""
        return self.binding.url

    def ready(self, limit_s: float = READY_S, ask: Callable[[], int] = lambda: 200) -> None:
        """Wait until ``is_ready``.

        Raises:
            ServerError: the server died, was not ready within ``limit_s`` of its last sign of life, or waits
                at another port than its own.
        """
        said = False
        for waited_s, silent_s in looks(self.process.pid, self.log, limit_s, lambda: self.status is not None):
            is_ready = self.is_ready(ask)
            self.check()
            if is_ready:
                self.ready_s = time.perf_counter() - self.started
                return
            is_lost = silent_s > DOUBT_S and self.status is None and self.elsewhere
            if silent_s > limit_s or is_lost:
                too_long = TOO_LONG.format(silent_s)
                raise ServerError(f"the server is not ready{too_long}{self.answered}{self.log_end}")
            if waited_s > DOUBT_S and self.answered and not said:
                print_wrapped(f"still waiting for the server{self.answered}")
                said = True

    def is_ready(self, ask: Callable[[], int] = lambda: 200) -> bool:
        """Whether ``health`` answers 200; if it does, ``target`` is where the server takes requests."""
        self.status = status_of(self.binding, self.health)
        if (path := self.log.with_name(PATH_FILE)).exists():
            self.target = self.url + path.read_text(encoding="utf-8")
        return self.status == 200

    @property
    def elsewhere(self) -> str:
        """The other ports that it listens on, as the end of a sentence; empty if none is known."""
        return ""

    @property
    def answered(self) -> str:
        """The last answer, as the end of a sentence; empty if none is known."""
        return ""

    def pause(self) -> None:
        """Stop all processes (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue all processes (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, psutil.NoSuchProcess):  # a dead server is reported by ``check``
            os.killpg(self.process.pid, number)
            if self.followed:
                send_signal(tree(self.process.pid), number)

    def check(self, dying_s: float = 0.0) -> None:
        """Raise ServerError, with the end of the log, if the server has died or dies within ``dying_s``."""
        with suppress(subprocess.TimeoutExpired):
            status = self.process.wait(dying_s)
            raise ServerError(f"the server died (exit status {status}{self.exit_hint(status)}){self.log_end}")

    @property
    def log_end(self) -> str:
        """The end of its log, to append to a message."""
        return log_tail(self.log)

    def exit_hint(self, status: int) -> str:
        """What may explain an exit status, to append to it."""
        return ""


@contextmanager
def started(
    words: Sequence[str],
    how: Start,
    path: str = PREDICT,
    environment: Mapping[str, str] = os.environ,
    *,
    folder: Path | None = None,
    follow: str = "",
    stop_s: float = 0.0,
    server: type[StartedServer] = StartedServer,
    **fields: Any,
) -> Iterator[StartedServer]:
    """Run a command that serves, until the block ends. The block begins before the server is ready.

    Args:
        words: of the command; {port}, or the variable LITMETER_PORT, is the port that it must listen on.
        path: where requests are sent.
        folder: where the command runs.
        follow: set where processes may leave the command's process group: the name to call them by when they
            are ended with it.
        stop_s: how long the command may take to end after SIGTERM; 0: it is killed.
        server: the class of the result; ``fields`` are further fields of it.

    Raises:
        ServerError: the port is taken.
    """
    with bound_socket(how.binding) as listener:
        binding = replace(how.binding, port=listener.getsockname()[1])
    words = [word.replace("{port}", str(binding.port)) for word in words]
    environment = {**environment, PORT_VARIABLE: str(binding.port)}
    with (
        scratch() as own,
        _main_process(words, how, environment, own, folder, stop_s=stop_s, follow=follow) as process,
    ):
        yield server(binding.url + path, binding=binding, followed=bool(follow), **process, **fields)


@contextmanager
def started_workers(
    module: str,
    how: Start,
    path: str,
    environment: Mapping[str, str],
    *,
    folder: Path | None = None,
    follow: str = "",
    **options: Any,
) -> Iterator[StartedServer]:
    """Run litmeter's own server, ``python -m MODULE``, until the block ends; it gets ``options`` as JSON.

    See ``started`` for the other arguments.

    Raises:
        ServerError: the port is taken.
        UsageError: the path of the temporary folder is too long.
    """
    with bound_socket(how.binding) as listener, scratch() as own:
        if (excess := len(os.fsencode(own)) - LONGEST_FOLDER) > 0:
            raise UsageError(
                f"TMPDIR: {own.parent} is {excess} bytes too long for the path of a socket; "
                "set it to a shorter one"
            )
        (metrics := own / "metrics").mkdir()
        variables = with_modules(environment, folder)
        variables |= {"PROMETHEUS_MULTIPROC_DIR": str(metrics), "TMPDIR": str(own)}
        binding = replace(how.binding, port=listener.getsockname()[1])
        words, passed = worker_words(module, how, binding, listener, **options), [listener.fileno()]
        with _main_process(
            words, how, variables, own, folder, stop_s=0.0, follow=follow, pass_fds=passed
        ) as process:
            listener.close()  # or clients of a server that has died would wait
            urls = binding.url + path, binding.url + METRICS
            yield StartedServer(*urls, binding=binding, followed=bool(follow), **process)


def worker_words(
    module: str, how: Start, binding: Binding, listener: socket.socket, **options: Any
) -> list[str]:
    """The command of litmeter's own server, which takes over ``listener``, bound to ``binding``."""
    options |= {"device": how.device, "timeout_s": how.timeout_s, "null_model": how.null}
    content = {**options, "binding": asdict(binding), "listener": listener.fileno()}
    return [sys.executable, "-m", module, json.dumps(content, default=str)]


@contextmanager
def _main_process(
    words: Sequence[str],
    how: Start,
    environment: Mapping[str, str],
    own: Path,
    folder: Path | None,
    **options: Any,
) -> Iterator[dict[str, Any]]:
    """Run a server's main process, with its log in the folder ``own``; yield fields of StartedServer."""
    variables, log = dict(environment), own / "log"
    if not how.in_foreground:
        variables.pop(KEY_VARIABLE, None)
    with log.open("wb") as file:
        output = None if how.in_foreground else file
        began = time.perf_counter()
        with process_group(
            words, stdout=output, stderr=output, env=variables, cwd=folder, **options
        ) as process:
            yield {"process": process, "log": log, "started": began}


def with_modules(environment: Mapping[str, str], folder: Path | None) -> dict[str, str]:
    """``environment`` in which Python finds the modules of ``folder``, and of its ``src``, first."""
    if folder is None:
        return dict(environment)
    own = [one for one in (folder.absolute() / "src", folder.absolute()) if one.is_dir()]
    before = filter(None, [environment.get("PYTHONPATH")])
    return {**environment, "PYTHONPATH": os.pathsep.join([*map(str, own), *before])}


def wait_in_foreground(server: StartedServer, page: str, drain_s: float) -> int:
    """Wait until a server in the foreground ends, by SIGTERM or Ctrl-C; return its exit status.

    The server then drains for ``drain_s``; a second signal kills it. SIGTERM must raise SystemExit in this
    process. The status is 0 if the server was told to stop and had answered all requests. Raise ServerError
    if it was killed.

    Args:
        page: added to what is said once the server is ready, with {url}.
    """
    process = server.process
    print("starting the server ...", flush=True)
    try:
        while process.poll() is None and not server.is_ready():
            time.sleep(READY_POLL_S)
        if process.poll() is None:
            seconds = time.perf_counter() - server.started
            said = f"{server.target} answers{page.format(url=server.url)} (Ctrl-C ends it)"
            print(f"ready after {seconds:.1f} s: {said}", flush=True)
        status = process.wait()
    except (KeyboardInterrupt, SystemExit):
        process.terminate()
        try:
            status = process.wait(drain_s + EXIT_GRACE_S)
            return 0 if status == -signal.SIGTERM else status  # it had not installed its handler yet
        except subprocess.TimeoutExpired:
            raise ServerError("the server did not stop in time, and was killed") from None
    if status < 0:
        raise ServerError(f"the server's main process was killed ({signal.Signals(-status).name})")
    return status


def status_of(binding: Binding, path: str) -> int | None:
    """Status of the server's answer to GET; None without an answer, as before it listens.

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
    """A socket bound to the address of ``binding``; raise ServerError if its port is not free.

    A server that inherits the socket has the port from now on: nobody else can take it meanwhile.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in binding.host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((binding.host, binding.port))
    except OSError as error:
        listener.close()
        raise ServerError(f"port {binding.port} of {binding.host} is not free ({error.strerror})") from error
    return listener
