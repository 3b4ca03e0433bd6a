"""Jobs that run side by side, each in a thread that waits for a process of its own."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from litmeter.system.processes import kill_group

Result = TypeVar("Result")
OnStart = Callable[["subprocess.Popen[bytes]"], object]
"""A job calls it with each process group that it has started."""

POLL_S = 0.05


def side_by_side(jobs: Sequence[Callable[[OnStart], Result]], most: int) -> list[Result]:
    """Run ``jobs``, up to ``most`` at a time; return their results in the same order.

    If one fails, or this process is interrupted, the process groups of the others are killed, and those that
    have not begun do not.
    """
    started: list[subprocess.Popen[bytes]] = []
    futures: list[Future[Result]] = []
    with ThreadPoolExecutor(most) as pool:
        try:
            futures.extend(pool.submit(job, started.append) for job in jobs)
            ended, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in ended:
                future.result()
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(future.done() for future in futures):
                for process in started:
                    if process.poll() is None:
                        kill_group(process.pid)
                time.sleep(POLL_S)
            raise
