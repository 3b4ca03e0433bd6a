"""Imported by the forkserver, which shall end with the main process rather than with its last worker."""

import importlib
import os
from contextlib import suppress

from litmeter.direct.forkserver import MODULES
from litmeter.system.imports import freeze_gc_after
from litmeter.system.signals import kill_with_parent

kill_with_parent(os.getppid())
# A failed import ends the worker that needs the module; the worker logs the reason.
with suppress(Exception), freeze_gc_after():
    for name in os.environ[MODULES].split():
        importlib.import_module(name)
