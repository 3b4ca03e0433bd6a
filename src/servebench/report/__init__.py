"""Stage ``report``: all configurations compared, in tables and pictures."""

from servebench.report.run import main

__all__ = ["main"]
