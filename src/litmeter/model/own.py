"""A model of one's own: the files that it depends on, and the module that its factory returns.

They are found from the project's folder on.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING

from litmeter.errors import ParamsError
from litmeter.paths import CHECKPOINT, MODEL
from litmeter.system.files import NO_INPUT

if TYPE_CHECKING:
    import torch

RESULTS = (CHECKPOINT.parent, MODEL.exported, MODEL.compiled)
"""A package called `models` has these folders, too."""


def files_of_factory(factory: str) -> list[Path]:
    """The file of the function's module; where that is of a package, all files of that.

    No code of it is run. Raise ParamsError where there is no such module.
    """
    _search_here()
    for name in accumulate(factory.partition(":")[0].split("."), "{}.{}".format):
        spec = find_spec(name)
        if spec is None or spec.has_location:
            break  # a folder without __init__.py has no location
    if spec is None or not spec.has_location:
        raise ParamsError(
            f"model.factory: got {factory!r}; allowed: a module in {Path.cwd()}; there is no {name}"
        )
    file = Path(str(spec.origin))
    if spec.submodule_search_locations is None:
        return [file]
    return sorted(
        path
        for path in file.parent.rglob("*")
        if path.is_file()
        and NO_INPUT.isdisjoint((*path.parts, path.suffix))
        and not any(path.is_relative_to(folder.absolute()) for folder in RESULTS)
    )


def files_of_onnx(path: Path) -> list[Path]:
    """An ONNX file, and those beside it whose names begin with its own, such as that of large weights."""
    return sorted(other for other in path.parent.iterdir() if other.name.startswith(path.name))


def made_by(factory: str) -> torch.nn.Module:
    """The module that ``module:function`` returns; raise ParamsError where it fails, or that is none."""
    import torch

    _search_here()
    module, _, function = factory.partition(":")
    try:
        made = getattr(importlib.import_module(module), function)()
    except Exception as error:
        raise ParamsError(f"model.factory: {factory}: {reason(error)}") from error
    if not isinstance(made, torch.nn.Module):
        raise ParamsError(
            f"model.factory: {factory} returns {type(made).__name__}; allowed: a torch.nn.Module"
        )
    return made


def reason(error: Exception) -> str:
    """What the exception of somebody else's code says, in one line, and where it was raised."""
    place = extract_tb(error.__traceback__)[-1]
    line = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {line} ({Path(place.filename).name}, line {place.lineno})"


def _search_here() -> None:
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
