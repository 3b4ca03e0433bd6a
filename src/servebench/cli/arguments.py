"""Numbers on the command line: what is not one is said in a line."""

from __future__ import annotations

import argparse
import math


def count(text: str) -> int:
    """A whole number of at least 1.

    Raises:
        argparse.ArgumentTypeError: so do all functions here, where the text is something else.
    """
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text!r}")
    return int(text)


def levels(text: str) -> tuple[int, ...]:
    """Numbers of users, separated by commas, none of them twice."""
    users = tuple(count(part.strip()) for part in text.split(","))
    if len(set(users)) != len(users):
        raise argparse.ArgumentTypeError(f"a level is named twice in {text!r}")
    return users


def rate(text: str) -> float:
    """Requests per second, more than 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected requests per second, got {text!r}")
    return value


def seconds(text: str) -> float:
    """A finite time of 0 seconds or more."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds, got {text!r}")
    return value


def positive_seconds(text: str) -> float:
    """A finite time of more than 0 seconds."""
    value = seconds(text)
    if value == 0:
        raise argparse.ArgumentTypeError("expected more than 0 seconds")
    return value


def port(text: str) -> int:
    """A TCP port that LitServe listens on."""
    if not (text.isdecimal() and 1024 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"expected a port from 1024 to 65535, got {text!r}")
    return int(text)
