"""Stage ``benchmark NAME``: one configuration, in-process and served, under load."""

from servebench.benchmark.run import main

__all__ = ["main"]
