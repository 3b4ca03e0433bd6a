"""timm, imported without torch's compiler: see ``system.without_compiler``."""

from __future__ import annotations

from litmeter.system.without_compiler import without_compiler

__all__ = ["timm"]

try:
    with without_compiler():
        import timm
        import timm.data
except ImportError:  # a version that needs more of it
    import timm
    import timm.data
