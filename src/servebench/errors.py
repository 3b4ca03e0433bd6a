"""What can go wrong, as a user is told it: one line, no traceback.

::

    ServebenchError      exit 1
    ├── UsageError       exit 2   a command line or an environment that cannot be meant
    ├── ParamsError      exit 2   a wrong key or value in params.yaml
    ├── DataError                 photographs missing, unreadable, or a class without any
    ├── ModelError                weights, checkpoint or card that do not fit
    ├── ServerError               a server that died, or was not ready in time
    ├── LoadError                 the load generator could not do its work
    ├── ReportError               results that do not belong together
    ├── StorageError              a file that cannot be written: no space, or not allowed
    └── VerifyError               the instrument could not be tested
"""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path

FREE_SPACE = "free some"
ALLOW_WRITING = "make it writable"
ELSEWHERE = "name another path"
WHAT_TO_DO = {
    errno.ENOSPC: FREE_SPACE,
    errno.EDQUOT: FREE_SPACE,
    errno.EFBIG: "raise the limit (ulimit -f)",
    errno.EROFS: ALLOW_WRITING,
    errno.EACCES: ALLOW_WRITING,
    errno.EPERM: ALLOW_WRITING,
    errno.EISDIR: ELSEWHERE,
    errno.ENOTDIR: ELSEWHERE,
    errno.EEXIST: ELSEWHERE,
}
"""Against what a disk or the system refuses."""


class ServebenchError(Exception):
    """An error that its message explains; the process ends with ``exit_code``."""

    exit_code = 1


class UsageError(ServebenchError):
    """Options, files or environment variables of a command that do not go together."""

    exit_code = 2


class ParamsError(ServebenchError):
    """A wrong key or value in params.yaml."""

    exit_code = 2


class DataError(ServebenchError):
    """Photographs that are missing or unreadable, or a class without any."""


class ModelError(ServebenchError):
    """Weights, a checkpoint or a model card that do not fit what was asked for."""


class ServerError(ServebenchError):
    """A server that died, or was not ready in time; the message holds the end of its log."""


class LoadError(ServebenchError):
    """The load generator could not do its work."""


class ReportError(ServebenchError):
    """Results that are missing, or do not belong to the experiments in params.yaml."""


class VerifyError(ServebenchError):
    """The instrument could not be tested: a part of the test is missing, or failed."""


class StorageError(ServebenchError):
    """A file that cannot be written: no space is left, or it is not allowed."""


def storage_error(error: OSError, path: Path | None = None) -> StorageError | None:
    """What to tell a user where a disk, or the system, refused to write; None for other errors.

    Args:
        path: of the file, where the error does not name it.
    """
    if error.errno == errno.ENOENT and error.filename is None:  # tempfile found no folder
        return StorageError(f"{error.strerror}; set TMPDIR to a folder that can be written")
    if error.errno not in WHAT_TO_DO:
        return None
    where = path or error.filename or f"{Path.cwd()} or {tempfile.gettempdir()}"
    todo = WHAT_TO_DO[error.errno]
    return StorageError(f"{where}: cannot be written: {error.strerror}; {todo}, then run it again")
