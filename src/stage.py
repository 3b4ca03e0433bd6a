"""Start one stage of the pipeline: ``python3 src/stage.py NAME [ARGUMENT]``, as dvc.yaml does.

DVC runs a stage with whatever ``python3`` comes first on PATH, and a queued experiment in a copy of
the tree below ``.dvc/tmp``. This script chooses the interpreter (that of an active virtual environment,
else of the nearest ``.venv`` at or above the working directory, else its own) and the code (the ``src``
that it lies in), and executes ``litmeter.stages``. An active conda environment is no reason to use its
python, as it need not have the project's packages. Standard library only: it may run under the system's
python.
"""

import os
import signal
import sys
from pathlib import Path


def interpreter() -> str:
    """Path of the python that has the project's packages."""
    if sys.prefix != sys.base_prefix:
        return sys.executable
    here = Path.cwd()
    for folder in (here, *here.parents):
        candidate = folder / ".venv" / "bin" / "python"
        if candidate.exists():
            return str(candidate)
    return sys.executable


if __name__ == "__main__":
    source = str(Path(__file__).resolve().parent)
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([source, inherited] if inherited else [source])
    # An interrupt while python starts would print a traceback: litmeter.stages unblocks the signals.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    python = interpreter()
    os.execv(python, [python, "-m", "litmeter.stages", *sys.argv[1:]])
