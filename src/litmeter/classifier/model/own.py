"""The files of a user's model: where their content changes, the model is another."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path

from litmeter.errors import ParamsError
from litmeter.paths import CHECKPOINT, MODEL
from litmeter.system.dvc_file import NO_INPUT

RESULTS = (CHECKPOINT.parent, MODEL.exported, MODEL.compiled)
"""Folders below `models` that runs write: no part of a factory in a module `models`."""


def files_of_factory(factory: str) -> list[Path]:
    """The file of the factory's module, or all files of its outermost package; none of them is run.

    The project's folder is searched first, also by later imports. Raise ParamsError where there is no module.
    """
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    name = re.split("[.:]", factory)[0]
    spec = find_spec(name)
    if spec and spec.submodule_search_locations:
        found = (path for folder in spec.submodule_search_locations for path in Path(folder).rglob("*"))
        return sorted(
            path
            for path in found
            if path.is_file()
            and NO_INPUT.isdisjoint((*path.parts, path.suffix))
            and not any(path.is_relative_to(folder.absolute()) for folder in RESULTS)
        )
    if spec and spec.has_location:
        return [Path(str(spec.origin))]
    raise ParamsError(f"model.factory: got {factory!r}; allowed: a module in {here}; there is no {name}")


def files_of_onnx(path: Path) -> list[Path]:
    """An ONNX file, and files beside it whose names begin with its name, such as its external weights."""
    return sorted(other for other in path.parent.iterdir() if other.name.startswith(path.name))
