"""Run one stage: ``python -m litmeter.stages NAME [ARGUMENT]``.

Errors of the user or of the disk are printed in one line. SIGTERM and Ctrl-C raise an exception, so that
the processes that a stage has started are stopped. A stage ends when its DVC was killed. Temporary files
of a stage that was itself killed are removed by the next one.
"""

from __future__ import annotations

import gc
import importlib
import signal
import sys
from contextlib import suppress

from litmeter.errors import LitmeterError, ParamsError, storage_error
from litmeter.params import load_params
from litmeter.stages.order import announcement, comparison_only, place
from litmeter.system.collector import for_good
from litmeter.system.progress import print_wrapped, set_place
from litmeter.system.signals import TERMINATION_SIGNALS, Terminated, exit_with_parent, graceful_termination
from litmeter.system.temporary import report_stale_files

STAGES = (
    *("machine", "data", "train", "export", "compile", "precisions", "ceilings"),
    *("benchmark", "comparison", "report", "capacity", "tune"),
)
"""Modules of this package; only the one that runs is imported, as they load different libraries."""


def main(arguments: list[str]) -> int:
    """Run the stage that ``arguments`` name; its exit status."""
    if not arguments or arguments[0] not in STAGES:
        print(f"usage: python -m litmeter.stages {{{'|'.join(STAGES)}}}", file=sys.stderr)
        return 2
    name, *rest = arguments
    try:
        with graceful_termination():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINATION_SIGNALS)  # src/stage.py blocks them
            exit_with_parent()
            report_stale_files(name)
            announce((name, *rest))
            with for_good():
                stage = importlib.import_module(f"litmeter.stages.{name}")
            stage.main(*rest)
    except LitmeterError as error:
        return _fail(name, str(error), error.exit_code)
    except OSError as error:
        explained = storage_error(error)
        if explained is None:
            raise
        return _fail(name, str(explained), explained.exit_code)
    except KeyboardInterrupt:
        return _fail(name, "interrupted", 128 + signal.SIGINT)
    except Terminated:
        return _fail(name, "terminated", 128 + signal.SIGTERM)
    gc.freeze()  # what the stage itself has imported is not walked through at exit
    return 0


def announce(stage: tuple[str, ...]) -> None:
    """Say where the run stands; not where params.yaml has a mistake, which the stage itself reports."""
    with suppress(ParamsError):
        params, alone = load_params(), comparison_only()
        if found := place(stage, params, comparison_only=alone):
            set_place("/".join(map(str, found)))
        if text := announcement(stage, params, comparison_only=alone):
            print_wrapped(text)


def _fail(name: str, message: str, status: int) -> int:
    print(f"{name}: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
