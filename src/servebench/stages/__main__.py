"""Run one stage so that it ends well: ``python -m servebench.stages NAME [ARGUMENT]``.

A wrong input, or a full disk, is one line on standard error. SIGTERM and Ctrl-C unwind like any other
exception, so what a stage has started is stopped; a stage whose DVC was killed ends as well. What one
that was itself killed has left is removed by the next.
"""

from __future__ import annotations

import importlib
import signal
import sys

from servebench.errors import ServebenchError, storage_error
from servebench.system.signals import TERMINATION_SIGNALS, Terminated, exit_with_parent, graceful_termination
from servebench.system.temporary import report_stale_files

STAGES = ("machine", "data", "train", "export", "compile", "ceilings", "benchmark", "report")
"""Modules beside this one; imported when they run, as each loads what it needs only."""


def main(arguments: list[str]) -> int:
    """Run the stage that ``arguments`` name; its exit status."""
    if not arguments or arguments[0] not in STAGES:
        print(f"usage: python -m servebench.stages {{{'|'.join(STAGES)}}}", file=sys.stderr)
        return 2
    name, *rest = arguments
    try:
        with graceful_termination():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINATION_SIGNALS)  # src/stage.py holds them back
            exit_with_parent()
            report_stale_files(name)
            importlib.import_module(f"servebench.stages.{name}").main(*rest)
    except ServebenchError as error:
        return _say(name, str(error), error.exit_code)
    except OSError as error:
        explained = storage_error(error)
        if explained is None:
            raise
        return _say(name, str(explained), explained.exit_code)
    except KeyboardInterrupt:
        return _say(name, "interrupted", 128 + signal.SIGINT)
    except Terminated:
        return _say(name, "terminated", 128 + signal.SIGTERM)
    return 0


def _say(name: str, message: str, status: int) -> int:
    print(f"{name}: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
