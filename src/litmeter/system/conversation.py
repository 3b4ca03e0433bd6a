"""A child process that takes jobs as lines of JSON on its standard input, and answers in the same way."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from litmeter.errors import LitmeterError
from litmeter.system.processes import log_tail


class Conversation:
    """The jobs to one process, and its answers.

    Attributes:
        pid: of the process.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], log: Path, name: str, error: type[LitmeterError]
    ) -> None:
        """Talk to ``process``.

        Args:
            process: started with pipes as its standard input and output.
            log: its standard error.
            name: what it is called in messages.
            error: raised when it has died.
        """
        self.pid = process.pid
        self._process = process
        self._log = log
        self._name = name
        self._error = error

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

    def answer(self) -> Any:
        """The next answer; raise ``error``, with the end of the log, if the process has died."""
        return next(self.answers())

    def _failure(self) -> LitmeterError:
        status = self._process.wait()
        return self._error(f"{self._name} died (exit status {status}){log_tail(self._log)}")
