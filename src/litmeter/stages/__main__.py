"""Run one stage: ``python -m litmeter.stages NAME [ARGUMENT]``.

Errors of the user and of the disk are printed in one line. SIGTERM and Ctrl-C raise an exception, so that the
stage stops the processes that it has started. A stage ends when its DVC is killed; the next stage removes the
temporary files of a killed one. Of all clones on a machine, and of DVC's queue, one stage computes at a time:
another one would take the cores on which this one measures.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from time import monotonic

from litmeter.errors import ParamsError, UsageError, explained
from litmeter.params import load_params
from litmeter.report.git import git
from litmeter.say.progress import print_wrapped, set_place
from litmeter.settings import PARAMS_FILE
from litmeter.stages.order import announcement, record_seconds
from litmeter.system.imports import freeze_gc_after
from litmeter.system.machine import exclusive_machine
from litmeter.system.signals import TERMINATION_SIGNALS, Terminated, exit_with_parent, graceful_termination
from litmeter.system.temporary import report_stale_files

STAGES = (
    *("machine", "data", "train", "export", "compile", "packages", "precisions"),
    *("ceilings", "benchmark", "comparison", "report", "capacity", "tune"),
)
"""Modules of this package; only the one that runs is imported, as they load different libraries."""
BESIDE_OTHERS = ("machine", "report")
"""Stages that wait for no other: the first one finds mistakes at once, and both take a few seconds."""
ON_DEMAND = ("capacity", "tune")
"""Stages that leave parameters and model as they are; a stopped search goes on in the next run."""
RESTORE = "; `git status` shows what it has changed, `dvc checkout` brings back the model of the last commit"


def main(arguments: list[str]) -> int:
    """Run the stage that ``arguments`` name; return its exit status."""
    if not arguments or arguments[0] not in STAGES:
        print(f"usage: python -m litmeter.stages {{{'|'.join(STAGES)}}}", file=sys.stderr)
        return 2
    name, *rest = arguments
    words = " ".join(arguments)
    try:
        with graceful_termination():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINATION_SIGNALS)  # src/stage.py blocks them
            exit_with_parent()
            report_stale_files(name)
            with suppress(ParamsError):  # the stage itself reports it
                if found := announcement(words, load_params()):
                    set_place(found[0])
                    print_wrapped(found[1])
            with nullcontext() if name in BESIDE_OTHERS else exclusive_machine():
                began = monotonic()
                with freeze_gc_after():
                    stage = importlib.import_module(f"litmeter.stages.{name}")
                    from litmeter.report import stage_lines  # a wrong NAME is refused without it
                stage_lines.begin(name, *rest)
                stage_lines.done(name, stage.main(*rest), *rest)
                record_seconds(words, monotonic() - began)
    except KeyboardInterrupt:
        said, status = f"interrupted{restore(name)}", 128 + signal.SIGINT
    except Terminated:
        said, status = f"terminated{restore(name)}", 128 + signal.SIGTERM
    except Exception as error:
        if (known := explained(error)) is None:
            raise
        hint = still_there() if isinstance(known, ParamsError) and name == "machine" else ""
        said, status = f"{known}{hint}", known.exit_code
    else:
        gc.freeze()  # spares a walk through all imported objects at exit
        return 0
    print(f"{name}: {said}", file=sys.stderr)
    return status


def still_there() -> str:
    """How to undo a refused value of `dvc exp run -S`, which has written it into params.yaml.

    Empty in any other run, and where git does not say that params.yaml differs from the last commit.
    """
    if "DVC_EXP_NAME" not in os.environ:
        return ""
    with suppress(UsageError):
        changed = git("status", "--porcelain", "--untracked-files=no", "--", PARAMS_FILE)
        if changed and not in_copy():
            return f"; {PARAMS_FILE} still has it: git checkout {PARAMS_FILE}"
    return ""


def restore(name: str) -> str:
    """How to undo what a stopped stage leaves behind: changed parameters, and another model or none."""
    return "" if name in ON_DEMAND or in_copy() else RESTORE


def in_copy() -> bool:
    """Whether this tree is thrown away: that of `litmeter quick`, without git, or of a queued experiment."""
    here = Path.cwd()
    return ".dvc" in here.parts or not any((folder / ".git").exists() for folder in (here, *here.parents))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
