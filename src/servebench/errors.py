"""What can go wrong, as a user is told it: one line, no traceback.

::

    ServebenchError      exit 1
    ├── ParamsError      exit 2   a wrong key or value in params.yaml
    ├── DataError                 photographs missing, unreadable, or a class without any
    ├── ModelError                weights, checkpoint or card that do not fit
    ├── ServerError               a server that died, or was not ready in time
    ├── LoadError                 the load generator could not do its work
    ├── ReportError               results that do not belong together
    └── VerifyError               the instrument could not be tested
"""


class ServebenchError(Exception):
    """An error that its message explains; the process ends with ``exit_code``."""

    exit_code = 1


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
