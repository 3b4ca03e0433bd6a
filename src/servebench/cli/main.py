"""The command ``servebench``: run one subcommand, and say in a line what went wrong."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from servebench.cli.parser import make_parser
from servebench.errors import ServebenchError, UsageError, storage_error
from servebench.system.temporary import report_stale_files


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; its exit status."""
    options = make_parser().parse_args(arguments)
    try:
        enter(options.project)
        report_stale_files("servebench")
        return int(options.run(options))
    except ServebenchError as error:
        print(f"servebench: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        explained = storage_error(error)
        if explained is None:
            raise
        print(f"servebench: {explained}", file=sys.stderr)
        return explained.exit_code


def enter(project: Path | None) -> None:
    """Work in the project's folder: all paths of the pipeline are relative to it.

    Raises:
        UsageError: there is no such folder.
    """
    if project is not None:
        try:
            os.chdir(project)
        except OSError as error:
            raise UsageError(f"--project {project}: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
