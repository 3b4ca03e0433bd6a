"""The parser of a subcommand: errors in one line, examples below the options."""

from __future__ import annotations

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A parser that reports an error in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with status 2."""
        self.exit(2, f"{self.prog}: {message}; --help explains\n")


Subparsers = argparse._SubParsersAction


def add_command(
    subparsers: Subparsers[Parser], name: str, summary: str, examples: str, aliases: tuple[str, ...] = ()
) -> Parser:
    """Add a subcommand with its summary, and examples below its options."""
    return subparsers.add_parser(
        name,
        help=summary,
        aliases=aliases,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
