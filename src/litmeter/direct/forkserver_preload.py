"""Imported by the process that workers are forked from: it ends with the main process, and they end with it.

Of its own accord it would stay until its last worker has ended.
"""

import importlib
import os
from contextlib import suppress

from litmeter.direct.forkserver import MODULES
from litmeter.system.imports import freeze_gc_after
from litmeter.system.signals import kill_with_parent

kill_with_parent(os.getppid())
# What cannot be imported ends the worker that needs it, with the reason in the log.
with suppress(Exception), freeze_gc_after():
    for name in os.environ[MODULES].split():
        importlib.import_module(name)
