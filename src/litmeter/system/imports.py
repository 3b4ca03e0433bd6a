"""Imports that cost less: hidden from the garbage collector, and without torch's compiler.

Imports leave hardly any garbage, but the collector walks through the imported objects again and again, and at
exit. Hiding the objects saves CPU time: until a server's first answer 0.3 s with a compiled model and 0.7 s
with timm's, and in a stage's imports 0.3 s, or 1.2 s to 4 s with torch.

The compiler (torch._dynamo) takes longer to import than torchvision or timm, which only mark functions that
the compiler shall ignore, and ask whether an operator can be compiled. A process that exports or compiles a
model imports the compiler then, without these marks. Leaving it out saves 0.8 s of CPU time until the first
answer of timm's model, and 1.1 s in the imports of the stages data, export and ceilings.
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
    """Hide all objects that exist after the block from the collector."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def lean_import(name: str) -> Any:
    """Import ``name`` without the compiler, or with it if that version needs it."""
    with suppress(ImportError), without_compiler():
        return importlib.import_module(name)
    return importlib.import_module(name)


@contextmanager
def without_compiler() -> Iterator[None]:
    """Imports within the block leave out the compiler, unless it is imported already."""
    if COMPILER[0] in sys.modules:
        yield
        return
    import torch  # not at the top: users of freeze_gc_after may do without torch

    disable = torch.compiler.disable
    sys.modules.update({name: _Deferred(name) for name in COMPILER})
    torch.compiler.disable = _unmarked
    try:
        yield
    finally:
        torch.compiler.disable = disable
        _remove_stand_ins()


class _Deferred(ModuleType):
    """Stand-in for a module during other imports; its functions import the module when called."""

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
    """Stand-in for ``torch.compiler.disable``: a decorator that changes nothing."""
    return _unmarked if fn is None else fn
