"""Process groups that end with a block or with the process that started them, and jobs for processes."""

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
"""A disk with less free space counts as full: a failed write of a page may leave a few bytes."""
GONE_S = 10.0
"""Longest wait for killed processes to disappear."""
MARK = "LITMETER_GROUP"
"""Environment variable with the process id of a followed group's leader. All processes that the leader starts
inherit it, even daemons, which have left the group and have no parent among its processes."""
CONTINUE_S = 0.1
"""Time for a stopped process to go on. Until its main thread runs, another thread may get a signal, and
Python's main thread does not hear of the signal while it waits in the kernel."""
SETTLE_S = 1.0
"""How long a followed group's processes may take to end after the leader."""
WAIT_THEN_RUN = 'read -r _ <"/dev/fd/$0" && exec "$@"'
"""Shell script: execute a command after a line from the pipe; end if the pipe is closed before."""
MARK_ITSELF = f"export {MARK}=$$; "
_named = set[str]()
"""Followed commands whose leftover processes have been reported."""
GUARD = 'read -r _; kill -s KILL -- "-$1"; shift; [ $# = 0 ] || exec "$@"'
"""Shell script: kill a group at the end of standard input, then execute a command, if any."""
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
    """Run ``command`` in its own process group; end the group after the block.

    The leader gets SIGTERM and ``stop_s`` seconds to end; then the whole group is killed. If this process is
    killed, even by SIGKILL, a guard process outside the group reads the end of its pipe and kills the group.
    The command starts only after the guard.

    Args:
        pass_fds: descriptors that the command inherits.
        follow: what to call the command in messages; if given, processes that have left the group are killed,
            too. The first time in this process, a note names processes that had to be killed.
        options: of Popen.
    """
    with ExitStack() as cleanup:
        with defer_signals():  # until the clean-up of both processes is registered
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
            cleanup.callback(guard.communicate)  # callbacks run in reverse order
            cleanup.callback(guard.kill)
            cleanup.callback(_stop, child, stop_s, follow)
            os.write(release, b"\n")
            os.close(release)
            os.close(start)
        yield child


def _stop(child: subprocess.Popen[bytes], stop_s: float, follow: str) -> None:
    """End ``child``, its group and, with ``follow``, processes outside the group; close the child's pipes."""
    known: set[psutil.Process] = set()
    try:
        if follow:
            known = followed(child.pid)
            send_signal(known, signal.SIGCONT)  # processes may be stopped
            time.sleep(min(stop_s, CONTINUE_S))
        if child.poll() is None:
            child.terminate()
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=stop_s)
        settled = time.monotonic() + min(stop_s, SETTLE_S)
        while any(map(_lives, known)) and time.monotonic() < settled:
            time.sleep(0.01)
    finally:  # even if a second Ctrl-C ends the waiting
        with defer_signals():
            left = set(filter(_lives, known | followed(child.pid))) if follow else set()
            said = sorted(named(one.pid) for one in left if stop_s or _is_outside(one, child.pid))
            deadline = time.monotonic() + GONE_S
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
                    f"note: not all processes of {follow} ended when it was stopped, so {', '.join(said)} "
                    "had to be killed; that changes no figure, and is said once"
                )


def tree(root: int) -> set[psutil.Process]:
    """A process and its descendants; for a followed group's leader, also processes that have left the group.

    Raise psutil.NoSuchProcess if the process has ended.
    """
    main = psutil.Process(root)
    found = {main, *main.children(recursive=True)}
    with suppress(psutil.Error):
        if main.environ().get(MARK) == str(root):
            found |= marked(root)
    return found


def marked(leader: int) -> set[psutil.Process]:
    """A followed group's leader and all living processes that it has started, in any group."""
    processes = psutil.process_iter(["environ"])
    return {process for process in processes if (process.info["environ"] or {}).get(MARK) == str(leader)}


def followed(leader: int) -> set[psutil.Process]:
    """All processes of a followed group, whether or not the leader has ended."""
    with suppress(psutil.NoSuchProcess):
        return tree(leader) | marked(leader)
    return marked(leader)


def kill_marked(leader: int, known: Iterable[psutil.Process] = ()) -> None:
    """Kill all processes that ``leader`` has started, and those started meanwhile; wait for their end.

    ``known`` are further processes, perhaps without the mark: a killed process loses its memory, and with it
    the mark, before its files and ports.
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
    """Send a signal to each living process."""
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(number)


def kill_group(group: int) -> bool:
    """Kill the processes of ``group``; False if there is none."""
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # PermissionError: a group of zombies on macOS
        return False
    return True


def _is_alive(group: int) -> bool:
    """Whether any process of ``group`` lives."""
    for pid in psutil.pids():
        with suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):  # other users', on macOS
            if os.getpgid(pid) == group and _lives(psutil.Process(pid)):
                return True
    return False


def _lives(process: psutil.Process) -> bool:
    """Whether a process is not a mere zombie, which holds nothing until it is reaped.

    The status of a process whose first thread has ended is also "zombie".
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
    """A process's name and id."""
    with suppress(psutil.Error):
        return f"{psutil.Process(pid).name()} ({pid})"
    return f"process {pid}"


def cpu_seconds(pid: int) -> float:
    """CPU time of a process ``tree`` and of its ended children, seconds; 0 if one has just ended."""
    with suppress(psutil.Error):
        return float(sum(sum(process.cpu_times()[:4]) for process in tree(pid)))  # the fifth is a wait
    return 0.0


def memory_alone(pid: int) -> int:
    """Bytes of memory of a process ``tree`` alone, without sharing by other processes; 0 if it has ended.

    The sum of all unshared memory, and the largest shared memory of any process.
    """
    unshared, shared = 0, 0
    with suppress(psutil.NoSuchProcess):
        for process in tree(pid):
            with suppress(psutil.NoSuchProcess):
                memory = process.memory_full_info()
                unshared += memory.uss
                shared = max(shared, memory.rss - memory.uss)
    return unshared + shared


def log_tail(log: Path) -> str:
    """Text for the error message of a dead process: the log's last lines, or that the disk is full."""
    if shutil.disk_usage(log.parent).free < FULL_DISK_BYTES:
        return (
            f": no space is left for temporary files ({log.parent.parent}); {FREE_SPACE}, then run it again"
        )
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
    return LOG_END + "".join(f"\n    {line}" for line in lines) if lines else ""


LOG_END = "; its log ends:"


class JsonLinesProcess:
    """Jobs for a process, by its standard input, and answers, by its standard output.

    Once the process has died, all methods raise ``error`` with ``name`` and the end of the ``log``.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], log: Path, name: str, error: type[LitmeterError]
    ) -> None:
        self.pid = process.pid
        self._process, self._log, self._name, self._error = process, log, name, error

    def send(self, job: Any) -> None:
        """Send one job."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None

    def answers(self) -> Iterator[Any]:
        """Yield answers as they come."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            yield json.loads(line)
        raise self._failure()

    def answer(self, tick: Callable[[], None] | None = None) -> Any:
        """The next answer; meanwhile ``tick``, which needs all earlier answers read, is called repeatedly."""
        assert self._process.stdout is not None
        while tick and not select.select([self._process.stdout], [], [], TICK_S)[0]:
            tick()
        return next(self.answers())

    def _failure(self) -> LitmeterError:
        status = self._process.wait()
        return self._error(f"{self._name} died (exit status {status}){log_tail(self._log)}")


OnStart = Callable[["subprocess.Popen[bytes]"], object]
"""Called by a job with each process group that it has started."""


@contextmanager
def json_lines_process(
    module: str,
    job: Any,
    env: Mapping[str, str],
    name: str,
    on_start: OnStart = lambda process: None,
    error: type[LitmeterError] = LitmeterError,
    **options: Any,
) -> Iterator[JsonLinesProcess]:
    """Run ``python -m MODULE`` on a job, with its own temporary folder, until the block ends.

    ``name`` is used in the ``error`` of a dead process; ``options`` are those of ``process_group``.
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
            **options,
        ) as process,
    ):
        on_start(process)
        talk = JsonLinesProcess(process, log, name, error)
        talk.send(job)
        yield talk


Result = TypeVar("Result")


def run_parallel(jobs: Sequence[Callable[[OnStart], Result]], most: int) -> list[Result]:
    """Run ``jobs``, up to ``most`` at a time; return their results in the same order.

    If a job fails, or this process is interrupted, the other jobs' process groups are killed, and no further
    job begins.
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
