"""Imports that cost less: kept away from the garbage collector, and without torch's compiler.

Imports leave hardly any garbage, yet the collector walks through all that they have created, again and again,
and once more at exit. Without that, a server takes 0.3 s less CPU time until its first answer with a compiled
model, and 0.7 s less with timm's; a stage's imports take 0.3 s less, or 1.2 s to 4 s with torch among them.

The compiler (torch._dynamo) takes longer to import than torchvision or timm, which only mark what it shall
leave alone, and ask whether an operator can be compiled. A process that exports or compiles a model loads it
when it does so, without these marks. Without it a server of timm's model takes 0.8 s less CPU time until its
first answer, and the imports of the stages data, export and ceilings 1.1 s less.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

COMPILER = ("torch._dynamo", "torch._dynamo.utils")


@contextmanager
def freeze_gc_after() -> Iterator[None]:
    """What is created within is never looked at by the collector."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def lean_import(name: str) -> Any:
    """The module ``name``, imported without the compiler where its version does without."""
    with suppress(ImportError), without_compiler():
        return importlib.import_module(name)
    return importlib.import_module(name)


@contextmanager
def without_compiler() -> Iterator[None]:
    """Until the block is left, imports do without the compiler, unless it is there already."""
    if COMPILER[0] in sys.modules:
        yield
        return
    import torch  # not where only the collector matters

    disable = torch.compiler.disable
    sys.modules.update({name: _Deferred(name) for name in COMPILER})
    torch.compiler.disable = _unmarked
    try:
        yield
    finally:
        torch.compiler.disable = disable
        _remove_stand_ins()


class _Deferred(ModuleType):
    """Stands in for a module while others are imported; its functions import it when they are called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*arguments: Any, **options: Any) -> Any:
            _remove_stand_ins()
            return getattr(importlib.import_module(self.__name__), name)(*arguments, **options)

        return call


def _remove_stand_ins() -> None:
    for name in COMPILER:
        if isinstance(sys.modules.get(name), _Deferred):
            del sys.modules[name]


def _unmarked(fn: Any = None, recursive: bool = True, *, reason: str | None = None) -> Any:
    """In place of ``torch.compiler.disable``: a decorator that leaves a function as it is."""
    return _unmarked if fn is None else fn
