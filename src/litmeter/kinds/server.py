"""A server that is measured: one that runs already, or one in a process group that is started, and ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any

import psutil

from litmeter.direct.binding import KEY_VARIABLE, Binding
from litmeter.errors import ServerError, UsageError
from litmeter.say.progress import print_wrapped
from litmeter.system.processes import log_tail, process_group, send_signal, tree
from litmeter.system.temporary import scratch

READY_S = 180.0
"""How long the workers may take to load the model."""
READY_POLL_S = 0.05
DOUBT_S = 5.0
"""How long an answer such as 404 to ``health`` is taken for one of a server that starts."""
DYING_S = 0.5
"""A server that dies of a request may take so long to end."""
HEALTH, METRICS = "/health", "/metrics"
LOCAL = Binding(0)
"""127.0.0.1, at a free port that the kernel chooses."""
LONGEST_FOLDER = 107 - len("/pymp-xxxxxxxx/listener-xxxxxxxx")
"""Bytes of a temporary folder's path: LitServe's multiprocessing manager makes a socket in it (unix(7))."""
EXIT_GRACE_S = 15.0
"""How long a server may take to exit after it has drained."""


@dataclass
class Server:
    """A server that runs already, here or elsewhere.

    Attributes:
        target: URL that requests are sent to.
        metrics: URL of what it has counted; None where it counts nothing.
        pid: of its main process, the root of its process tree; None where it runs elsewhere.
        ready_s: seconds from its start until it was ready; None where it ran already.
    """

    target: str
    metrics: str | None = None
    pid: int | None = field(default=None, init=False)
    ready_s: float | None = field(default=None, init=False)

    def ready(self, limit_s: float = READY_S, ask: Callable[[], int] = lambda: 200) -> None:
        """Wait until it is ready, ``limit_s`` at most; ``ask`` sends a request, and returns its status."""

    def pause(self) -> None:
        """Have it take no CPU time; no request is in flight."""

    def resume(self) -> None:
        """Have it go on."""

    def check(self, dying_s: float = 0.0) -> None:
        """Raise ServerError if it has died, or does within ``dying_s``."""


@dataclass
class StartedServer(Server):
    """A server whose processes have been started; it answers when ``ready`` has returned."""

    process: subprocess.Popen[bytes] = field(kw_only=True)
    binding: Binding = field(kw_only=True)
    log: Path = field(kw_only=True)  # file with its output
    started: float = field(kw_only=True)  # when, on the monotonic clock
    health: str = field(default=HEALTH, kw_only=True)  # path that answers 200 once it is ready
    own_processes: bool = field(default=False, kw_only=True)  # it may have some outside of its group
    status: int | None = field(default=None, init=False)  # of its last answer to ``health``

    def __post_init__(self) -> None:
        self.pid = self.process.pid

    @property
    def url(self) -> str:
        """Its URL, without a slash at the end."""
        return self.binding.url

    def ready(self, limit_s: float = READY_S, ask: Callable[[], int] = lambda: 200) -> None:
        """Wait until ``is_ready``.

        Raises:
            ServerError: it died, or was not ready within ``limit_s`` of its start.
        """
        say_after_s = DOUBT_S
        while (waited_s := time.perf_counter() - self.started) < limit_s:
            is_ready = self.is_ready(ask)
            self.check()
            if is_ready:
                self.ready_s = time.perf_counter() - self.started
                self.settle()
                return
            if waited_s > say_after_s and self.is_doubtful:
                print_wrapped(f"still waiting for the server{self.answered}")
                say_after_s = limit_s
            time.sleep(READY_POLL_S)
        raise ServerError(
            f"the server was not ready within {limit_s:.0f} s{self.answered}{log_tail(self.log)}"
        )

    def is_ready(self, ask: Callable[[], int] = lambda: 200) -> bool:
        """Whether ``health`` answers with 200."""
        self.status = status_of(self.binding, self.health)
        return self.status == 200

    def settle(self) -> None:
        """Wait until it is idle."""

    @property
    def is_doubtful(self) -> bool:
        """Whether it answers as one that will never be ready."""
        return self.status is not None and self.status < 500

    @property
    def answered(self) -> str:
        """What it answered last, to append to what is said of it."""
        return ""

    def pause(self) -> None:
        """Stop all its processes (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue its processes (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self.pid is not None
        with suppress(ProcessLookupError, psutil.NoSuchProcess):  # it has died: ``check`` says so
            os.killpg(self.pid, number)
            if self.own_processes:
                send_signal(tree(self.pid), number)

    def check(self, dying_s: float = 0.0) -> None:
        """Raise ServerError, with the end of its log, if it has died, or does within ``dying_s``."""
        with suppress(subprocess.TimeoutExpired):
            status = self.process.wait(dying_s)
            raise ServerError(
                f"the server died (exit status {status}{self.exit_hint(status)}){log_tail(self.log)}"
            )

    def exit_hint(self, status: int) -> str:
        """What to add to its exit status."""
        return ""


@dataclass(frozen=True)
class Start:
    """How a server is wanted.

    Attributes:
        device: cpu or cuda.
        timeout_s: how long a request may wait in its queue.
        null: it does no work.
        in_foreground: with the log on the terminal, and the API key of the environment; else without a key,
            as the load generator sends none.
    """

    device: str
    timeout_s: float
    binding: Binding = LOCAL
    null: bool = False
    in_foreground: bool = False


@dataclass(frozen=True)
class Launch:
    """How a server's main process is started.

    Attributes:
        words: of its command line.
        environment: variables that it gets besides those of its configuration.
        inherits: whether it takes the socket that is bound to its address; else it binds the port itself.
        stop_s: how long it may take to end after SIGTERM; 0: it is killed, as no client waits for an answer.
    """

    words: list[str]
    environment: dict[str, str]
    inherits: bool
    stop_s: float = 0.0


@contextmanager
def launched(
    launch: Callable[[Binding, socket.socket, Path], Launch],
    environment: Mapping[str, str],
    path: str,
    how: Start,
    *,
    server: type[StartedServer] = StartedServer,
    folder: Path | None = None,
    follow: str = "",
    metrics: bool = False,
    **options: Any,
) -> Iterator[StartedServer]:
    """Start a server until the block is left, which begins at once.

    Args:
        launch: says how, by its address, the socket that is bound to it, and a folder for its files.
        environment: variables of its configuration.
        path: where requests are sent.
        folder: it runs there, where its modules are found.
        follow: what its processes outside of the group are known by.
        metrics: whether it has METRICS.
        options: other fields of ``server``.

    Raises:
        ServerError: the port is taken.
    """
    with bound_socket(how.binding) as listener, scratch() as own, (log := own / "log").open("wb") as output:
        variables = dict(environment)
        if not how.in_foreground:
            variables.pop(KEY_VARIABLE, None)
        if folder is not None:
            variables["PYTHONPATH"] = module_path(folder, variables.get("PYTHONPATH"))
        binding = replace(how.binding, port=listener.getsockname()[1])
        found = launch(binding, listener, own)
        if not found.inherits:
            listener.close()
        started = time.perf_counter()
        with process_group(
            found.words,
            stdout=None if how.in_foreground else output,
            stderr=None if how.in_foreground else output,
            env=variables | found.environment,
            cwd=folder,
            stop_s=found.stop_s,
            pass_fds=[listener.fileno()] if found.inherits else [],
            follow=follow,
        ) as process:
            listener.close()  # else clients of a server that has died would wait
            yield server(
                binding.url + path,
                binding.url + METRICS if metrics else None,
                process=process,
                binding=binding,
                log=log,
                started=started,
                **options,
            )


def of_workers(
    module: str, how: Start, binding: Binding, listener: socket.socket, own: Path, **options: Any
) -> Launch:
    """How ``python -m MODULE`` is started, litmeter's own: it gets its options as JSON, and the socket.

    Raise UsageError where the temporary folder ``own`` has too long a path.
    """
    if (excess := len(os.fsencode(own)) - LONGEST_FOLDER) > 0:
        raise UsageError(
            f"TMPDIR: {own.parent} is {excess} bytes too long for the path of a socket; "
            "set it to a shorter one"
        )
    (metrics := own / "metrics").mkdir()
    options |= {"device": how.device, "timeout_s": how.timeout_s, "null_model": how.null}
    content = {**options, "binding": asdict(binding), "listener": listener.fileno()}
    words = [sys.executable, "-m", module, json.dumps(content, default=str)]
    return Launch(words, {"PROMETHEUS_MULTIPROC_DIR": str(metrics), "TMPDIR": str(own)}, inherits=True)


def module_path(folder: Path, before: str | None) -> str:
    """PYTHONPATH with the modules of ``folder`` and its ``src`` first, also where others are installed."""
    own = [one for one in (folder.absolute() / "src", folder.absolute()) if one.is_dir()]
    return os.pathsep.join([*map(str, own), *([before] if before else [])])


def wait_in_foreground(server: StartedServer, starts_by: str, page: str, drain_s: float) -> int:
    """Wait until a server that has the terminal ends, by SIGTERM or Ctrl-C; return its exit status.

    It then drains for ``drain_s``; a second signal kills it. SIGTERM must raise SystemExit in this process.
    The status is 0 if the server was told to stop and had answered all requests. Raise ServerError if it was
    killed.

    Args:
        starts_by: said while it is not ready.
        page: said of it once it is, with {url}.
    """
    process = server.process
    print(starts_by, flush=True)
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
