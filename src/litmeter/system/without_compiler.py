"""Imports without torch's compiler (torch._dynamo), which takes longer to import than torchvision or timm.

timm and torchvision need it for little: timm marks functions of one architecture (naflexvit) that the
compiler shall leave alone, torchvision marks one and asks whether an operator can be compiled. Most
processes never use it. One that exports or compiles a model imports it when it does so, without these marks.

A server of timm's model takes 0.8 s less CPU time until its first answer, and the imports of the stages data,
export and ceilings take 1.1 s less.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
            remove_stand_ins()
            return getattr(importlib.import_module(self.__name__), name)(*arguments, **options)

        return call


def remove_stand_ins() -> None:
    """Remove each module that is not the real one."""
    for name in COMPILER:
        if isinstance(sys.modules.get(name), Deferred):
            del sys.modules[name]


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
        remove_stand_ins()


def lean_import(name: str) -> Any:
    """The module ``name``, imported without the compiler where its version does without."""
    with suppress(ImportError), without_compiler():
        return importlib.import_module(name)
    return importlib.import_module(name)


def _unmarked(fn: Any = None, recursive: bool = True, *, reason: str | None = None) -> Any:
    """In place of ``torch.compiler.disable``: a decorator that leaves a function as it is."""
    return _unmarked if fn is None else fn
