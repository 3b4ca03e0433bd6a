"""timm, imported without torch's compiler: see ``system.without_compiler``."""

from litmeter.system.without_compiler import lean_import

timm = lean_import("timm")
lean_import("timm.data")
