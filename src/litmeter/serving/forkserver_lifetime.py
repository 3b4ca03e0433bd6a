"""The forkserver, which imports this module first, ends with the main process, and its workers end with it.

Of its own accord it would stay until its last worker has ended.
"""

import os

from litmeter.system.signals import kill_with_parent

kill_with_parent(os.getppid())
