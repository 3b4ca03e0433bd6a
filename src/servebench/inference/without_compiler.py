"""Imports without torch's compiler, torch._dynamo, which takes as long to import as timm and more.

timm and torchvision need it for little: timm marks functions of one architecture that it shall leave alone,
and torchvision asks it whether an operator can be compiled. Workers compile nothing by it. What exports and
compiles a model imports it then.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

COMPILER = ("torch._dynamo", "torch._dynamo.utils")


class Deferred(ModuleType):
    """Stands in for a module while others are imported; its functions import it when they are called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """The function ``name`` of the module."""
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*arguments: Any, **options: Any) -> Any:
            return getattr(importlib.import_module(self.__name__), name)(*arguments, **options)

        return call


@contextmanager
def without_compiler() -> Iterator[None]:
    """Until the block is left, imports do without the compiler, unless it is there already."""
    if COMPILER[0] in sys.modules:
        yield
        return
    disable = torch.compiler.disable
    sys.modules.update({name: Deferred(name) for name in COMPILER})
    torch.compiler.disable = _unmarked
    try:
        yield
    finally:
        torch.compiler.disable = disable
        for name in COMPILER:
            del sys.modules[name]


def _unmarked(function: Any = None, recursive: bool = True, *, reason: str | None = None) -> Any:
    """In place of ``torch.compiler.disable``: a decorator that leaves a function as it is."""
    return _unmarked if function is None else function
