"""Run one stage so that it ends well: ``python -m servebench.stage NAME [ARGUMENT]``.

A wrong input, or a full disk, is one line on standard error. SIGTERM and Ctrl-C unwind like any other
exception, so what a stage has started is stopped; a stage whose DVC was killed ends as well. What one
that was itself killed has left is removed by the next.
"""

from __future__ import annotations

import importlib
import signal
import sys

from servebench.errors import ServebenchError, storage_error
from servebench.leftovers import tidy_up
from servebench.processes import TOLD, Terminated, end_with_parent, told_to_end

STAGES = {
    "machine": "servebench.machine",
    "data": "servebench.data.prepare",
    "training": "servebench.training.fit",
    "export": "servebench.export",
    "compile": "servebench.compiled.run",
    "ceilings": "servebench.ceilings.run",
    "benchmark": "servebench.benchmark.run",
    "report": "servebench.report.run",
}
"""The module whose ``main`` is the stage; imported when it runs, as each loads what it needs only."""


def main(arguments: list[str]) -> int:
    """Run the stage that ``arguments`` name; its exit status."""
    if not arguments or arguments[0] not in STAGES:
        print(f"usage: python -m servebench.stage {{{'|'.join(STAGES)}}}", file=sys.stderr)
        return 2
    name, *rest = arguments
    try:
        with told_to_end():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, TOLD)  # src/stage.py holds them back
            end_with_parent()
            tidy_up(name)
            importlib.import_module(STAGES[name]).main(*rest)
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
