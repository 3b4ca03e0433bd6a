"""Run one stage so that it ends well: ``python -m servebench.stage NAME [ARGUMENT]``.

A wrong input is one line on standard error. SIGTERM and Ctrl-C unwind like any other exception, so
what a stage has started is stopped; a stage whose DVC was killed ends as well.
"""

from __future__ import annotations

import importlib
import signal
import sys
from types import FrameType

from servebench.errors import ServebenchError
from servebench.processes import end_with_parent

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


class Terminated(BaseException):
    """SIGTERM, as an exception that unwinds the stack as KeyboardInterrupt does."""


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise Terminated


def main(arguments: list[str]) -> int:
    """Run the stage that ``arguments`` name; its exit status."""
    if not arguments or arguments[0] not in STAGES:
        print(f"usage: python -m servebench.stage {{{'|'.join(STAGES)}}}", file=sys.stderr)
        return 2
    name, *rest = arguments
    signal.signal(signal.SIGTERM, _terminate)
    end_with_parent()
    try:
        importlib.import_module(STAGES[name]).main(*rest)
    except ServebenchError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Terminated:
        print(f"{name}: terminated", file=sys.stderr)
        return 128 + signal.SIGTERM
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
