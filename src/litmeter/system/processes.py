"""Process groups that end with the block or with who started them, and jobs for one or several of them."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import psutil

from litmeter.errors import FREE_SPACE, LitmeterError
from litmeter.say.progress import print_wrapped
from litmeter.system.signals import defer_signals
from litmeter.system.temporary import scratch

LOG_TAIL_LINES = 15
TICK_S = 0.25
FULL_DISK_BYTES = 2**16
"""Free space below which a disk counts as full: a failed write of a page may leave a few bytes."""
GONE_S = 10.0
"""How long killed processes are waited for."""
MARK = "LITMETER_GROUP"
"""Environment variable with the process id of a followed group's leader. All that the leader starts inherit
it, wherever they go: a daemon is in no group, and nobody's child, that one could know it by."""
CONTINUE_S = 0.1
"""For a stopped process to go on. Until its main thread does, another thread may get a signal, of which
Python's main thread does not hear while it waits in the kernel."""
SETTLE_S = 1.0
"""How long the processes of a followed group may take to end after its leader."""
WAIT_THEN_RUN = 'read -r _ <"/dev/fd/$0" && exec "$@"'
"""Shell script: execute the command after a line from the pipe; end if the pipe is closed before."""
MARK_ITSELF = f"export {MARK}=$$; "
_named = set[str]()
"""What was followed, and named as it did not end by itself."""
GUARD = 'read -r _; kill -s KILL -- "-$1"; shift; [ $# = 0 ] || exec "$@"'
"""Shell script: kill a group at the end of standard input, then execute a command, if there is one."""
KILL_MARKED = "import sys; from litmeter.system.processes import kill_marked; kill_marked(int(sys.argv[1]))"


@contextmanager
def process_group(
    command: Sequence[str],
    *,
    stdin: int | IO[bytes] | None = subprocess.DEVNULL,
    stop_s: float = 10.0,
    pass_fds: Sequence[int] = (),
    follow: str = "",
    **options: Any,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``command`` in a process group of its own; end the group when the block is left.

    Its leader gets SIGTERM and ``stop_s`` seconds to end; then the whole group is killed. If this
    process is killed, even by SIGKILL, a guard process outside the group reads the end of its pipe
    and kills the group. The command starts only after the guard. It inherits the descriptors ``pass_fds``;
    ``options`` are Popen's.

    With ``follow``, what to call it, what has left the group is killed with it. What had time to end and did
    not, or has left the group, is named, at the first time in this process.
    """
    with ExitStack() as cleanup:
        with defer_signals():  # until the clean-up of what has been started is registered
            start, release = os.pipe()
            child = subprocess.Popen(
                ["/bin/sh", "-c", (MARK_ITSELF if follow else "") + WAIT_THEN_RUN, str(start), *command],
                stdin=stdin,
                pass_fds=(start, *pass_fds),
                start_new_session=True,
                **options,
            )
            pid = str(child.pid)
            kill_followed = [sys.executable, "-c", KILL_MARKED, pid] if follow else []
            guard = subprocess.Popen(
                ["/bin/sh", "-c", GUARD, "guard", pid, *kill_followed],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            cleanup.callback(guard.communicate)
            cleanup.callback(guard.kill)  # before it: the last is called first
            cleanup.callback(_stop, child, stop_s, follow)
            os.write(release, b"\n")
            os.close(release)
            os.close(start)
        yield child


def _stop(child: subprocess.Popen[bytes], stop_s: float, follow: str) -> None:
    """End ``child`` and its group, and close the pipes to it; with ``follow``, what has left it, too."""
    known: set[psutil.Process] = set()
    try:
        if follow:
            known = followed(child.pid)
            send_signal(known, signal.SIGCONT)  # it may be stopped
            time.sleep(min(stop_s, CONTINUE_S))
        if child.poll() is None:
            child.terminate()
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=stop_s)
        settled = time.monotonic() + min(stop_s, SETTLE_S)
        while any(map(_lives, known)) and time.monotonic() < settled:
            time.sleep(0.01)
    finally:  # a second Ctrl-C ends the waiting; the group is killed all the same
        with defer_signals():
            left = set(filter(_lives, known | followed(child.pid))) if follow else set()
            said = sorted(named(one.pid) for one in left if stop_s or _is_outside(one, child.pid))
            deadline = time.monotonic() + GONE_S  # killed processes take time to end
            while kill_group(child.pid) and _is_alive(child.pid) and time.monotonic() < deadline:
                time.sleep(0.01)
            if follow:
                kill_marked(child.pid, left)
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, deadline - time.monotonic()))
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):
                        pipe.close()
            if said and follow not in _named:
                _named.add(follow)
                print_wrapped(
                    f"note: not all of {follow} ended by itself when it was stopped, so {', '.join(said)} "
                    "had to be killed; that changes no figure, and is said once"
                )


def tree(root: int) -> set[psutil.Process]:
    """A process and its descendants; of a followed group's leader, also those that have left it.

    Raise psutil.NoSuchProcess where it has ended.
    """
    main = psutil.Process(root)
    found = {main, *main.children(recursive=True)}
    with suppress(psutil.Error):
        if main.environ().get(MARK) == str(root):
            found |= marked(root)
    return found


def marked(leader: int) -> set[psutil.Process]:
    """The living processes that a followed group's leader has started, wherever they are, and itself."""
    processes = psutil.process_iter(["environ"])
    return {process for process in processes if (process.info["environ"] or {}).get(MARK) == str(leader)}


def followed(leader: int) -> set[psutil.Process]:
    """All processes of a followed group, whether its leader has ended or not."""
    with suppress(psutil.NoSuchProcess):
        return tree(leader) | marked(leader)
    return marked(leader)


def kill_marked(leader: int, known: Iterable[psutil.Process] = ()) -> None:
    """Kill what ``leader`` has started, wherever it is, and what that starts meanwhile; wait for their end.

    A killed process loses its memory, and with it the mark, before its files and ports.

    Args:
        known: processes of it that may have no mark.
    """
    deadline, killed = time.monotonic() + GONE_S, set(known)
    send_signal(killed, signal.SIGKILL)
    while (left := marked(leader)) or any(map(_lives, killed)):
        killed |= left
        send_signal(left, signal.SIGKILL)
        if time.monotonic() > deadline:
            return
        time.sleep(0.01)


def send_signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to each that lives."""
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(number)


def kill_group(group: int) -> bool:
    """Kill the processes of ``group``; False where there is none."""
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # the second is macOS's answer for a group of zombies
        return False
    return True


def _is_alive(group: int) -> bool:
    """Whether a process of ``group`` lives."""
    for pid in psutil.pids():
        with suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):  # another user's, on macOS
            if os.getpgid(pid) == group and _lives(psutil.Process(pid)):
                return True
    return False


def _lives(process: psutil.Process) -> bool:
    """Whether it is more than a zombie: that holds nothing, and lasts until it is reaped.

    One whose first thread has ended is called a zombie, too.
    """
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and (
            process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1
        )
    return False


def _is_outside(process: psutil.Process, group: int) -> bool:
    with suppress(ProcessLookupError):
        return os.getpgid(process.pid) != group
    return False


def named(pid: int) -> str:
    """A process by its name and id."""
    with suppress(psutil.Error):
        return f"{psutil.Process(pid).name()} ({pid})"
    return f"process {pid}"


def memory_alone(pid: int) -> int:
    """Memory of a process ``tree``, bytes, as if no other process shared any page with them.

    That is what each has to itself, and the most that one of them shares; 0 for one that has ended.
    """
    own, shared = 0, 0
    with suppress(psutil.NoSuchProcess):
        for process in tree(pid):
            with suppress(psutil.NoSuchProcess):
                memory = process.memory_full_info()
                own += memory.uss
                shared = max(shared, memory.rss - memory.uss)
    return own + shared


def log_tail(log: Path) -> str:
    """Text to append to the error of a process that died: its log's last lines, or that the disk is full."""
    if shutil.disk_usage(log.parent).free < FULL_DISK_BYTES:
        return (
            f": no space is left for temporary files ({log.parent.parent}); {FREE_SPACE}, then run it again"
        )
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
    return "; its log ends:" + "".join(f"\n    {line}" for line in lines) if lines else ""


class JsonLinesProcess:
    """The jobs to one process, by its standard input, and its answers, by its standard output.

    Both raise ``error``, with ``name`` and the end of the ``log``, once it has died.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], log: Path, name: str, error: type[LitmeterError]
    ) -> None:
        self.pid = process.pid
        self._process, self._log, self._name, self._error = process, log, name, error

    def send(self, job: Any) -> None:
        """Send one job; raise ``error`` if the process has died."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None

    def answers(self) -> Iterator[Any]:
        """Yield answers as they come; raise ``error``, with the end of the log, when the process has died."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            yield json.loads(line)
        raise self._failure()

    def answer(self, tick: Callable[[], None] | None = None) -> Any:
        """The next answer; raise ``error``, with the end of the log, if the process has died.

        While it is waited for, ``tick`` is called a few times a second; no answer before it may be unread.
        """
        assert self._process.stdout is not None
        while tick and not select.select([self._process.stdout], [], [], TICK_S)[0]:
            tick()
        return next(self.answers())

    def _failure(self) -> LitmeterError:
        status = self._process.wait()
        return self._error(f"{self._name} died (exit status {status}){log_tail(self._log)}")


OnStart = Callable[["subprocess.Popen[bytes]"], object]
"""A job calls it with each process group that it has started."""


@contextmanager
def json_lines_process(
    module: str,
    job: Any,
    env: Mapping[str, str],
    name: str,
    on_start: OnStart = lambda process: None,
    cwd: str | None = None,
) -> Iterator[JsonLinesProcess]:
    """Run ``python -m MODULE`` on a job, with a temporary folder of its own, until the block is left.

    LitmeterError, which calls it ``name``, is raised when it has died.
    """
    with (
        scratch() as folder,
        (log := folder / "log").open("wb") as stderr,
        process_group(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**env, "TMPDIR": str(folder)},
            cwd=cwd,
        ) as process,
    ):
        on_start(process)
        talk = JsonLinesProcess(process, log, name, LitmeterError)
        talk.send(job)
        yield talk


Result = TypeVar("Result")


def run_parallel(jobs: Sequence[Callable[[OnStart], Result]], most: int) -> list[Result]:
    """Run ``jobs``, up to ``most`` at a time; return their results in the same order.

    If one fails, or this process is interrupted, the process groups of the others are killed, and those that
    have not begun do not.
    """
    started: list[subprocess.Popen[bytes]] = []
    futures: list[Future[Result]] = []
    with ThreadPoolExecutor(most) as pool:
        try:
            futures.extend(pool.submit(job, started.append) for job in jobs)
            for future in as_completed(futures):
                future.result()
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(future.done() for future in futures):
                for process in started:
                    if process.poll() is None:
                        kill_group(process.pid)
                time.sleep(0.05)
            raise
