"""Entry point of the command ``litmeter``: runs a subcommand, and reports an error in one line."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from litmeter.cli.parser import make_parser
from litmeter.errors import LitmeterError, UsageError, storage_error
from litmeter.system.temporary import report_stale_files


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the subcommand that ``arguments`` (default: the command line) name; return the exit status."""
    options = make_parser().parse_args(arguments)
    try:
        if options.project is not None:
            enter_project(options)
        report_stale_files("litmeter")
        return int(options.run(options))
    except LitmeterError as error:
        print(f"litmeter: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of our output has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        explained = storage_error(error)
        if explained is None:
            raise
        print(f"litmeter: {explained}", file=sys.stderr)
        return explained.exit_code


def enter_project(options: argparse.Namespace) -> None:
    """Change to the folder ``options.project``, after making the other paths in ``options`` absolute.

    Raises:
        UsageError: the folder cannot be entered.
    """
    for name, value in vars(options).items():
        if isinstance(value, Path):
            setattr(options, name, value.absolute())
        elif isinstance(value, list):
            setattr(options, name, [item.absolute() if isinstance(item, Path) else item for item in value])
    try:
        os.chdir(options.project)
    except OSError as error:
        raise UsageError(f"--project {options.project}: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
