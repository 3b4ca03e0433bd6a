"""The server that a script makes, as an object: the script is run up to its ``LitServer.run``.

Only in a process whose start-up module (``kinds/injected``) was told to raise ``Reached`` there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from litmeter.direct.litserve_internals import Server, adopted
from litmeter.errors import ApiError


def reached(words: Sequence[str]) -> Server:
    """Run a script, a file and its arguments, as ``__main__``; return its server.

    The script stays ``__main__``: processes that are spawned import it, as LitServe's workers do. Raise
    ApiError where it ends before its server runs, and whatever the script raises.
    """
    file = str(Path(words[0]).absolute())
    module = ModuleType("__main__")
    module.__file__ = file
    sys.modules["__main__"], sys.argv = module, [words[0], *words[1:]]
    sys.path.insert(0, str(Path(file).parent))
    try:
        exec(compile(Path(file).read_bytes(), file, "exec", dont_inherit=True), vars(module))
    except BaseException as error:
        if type(error).__name__ != "Reached":  # which may be in no sys.modules
            raise
        return adopted(error.server)  # type: ignore[attr-defined]
    raise ApiError(f"{words[0]} ended before its server ran")
