"""What every worker needs, imported by the process that workers are forked from."""

import importlib
import os
from contextlib import suppress

from litmeter.serving.forkserver import MODULES
from litmeter.system.collector import for_good

# What cannot be imported ends the worker that needs it, with the reason in the log.
with suppress(Exception), for_good():
    for name in os.environ[MODULES].split():
        importlib.import_module(name)
