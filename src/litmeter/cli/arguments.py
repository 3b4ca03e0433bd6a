"""Types of the numbers on the command line, for argparse."""

from __future__ import annotations

import argparse
import math


def positive_int(text: str) -> int:
    """Parse an integer of at least 1.

    Raises:
        argparse.ArgumentTypeError: ``text`` is something else, as in all functions of this module.
    """
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text!r}")
    return int(text)


def levels(text: str) -> tuple[int, ...]:
    """Parse the load levels: distinct numbers of users, separated by commas."""
    users = tuple(positive_int(part.strip()) for part in text.split(","))
    if len(set(users)) != len(users):
        raise argparse.ArgumentTypeError(f"a level appears twice in {text!r}")
    return users


def rate(text: str) -> float:
    """Parse a finite rate above 0, in requests per second."""
    return _number(text, "requests per second", above_zero=True)


def milliseconds(text: str) -> float:
    """Parse a finite time above 0, in milliseconds."""
    return _number(text, "milliseconds", above_zero=True)


def seconds(text: str) -> float:
    """Parse a finite time of at least 0 seconds."""
    return _number(text, "seconds", above_zero=False)


def positive_seconds(text: str) -> float:
    """Parse a finite time above 0 seconds."""
    return _number(text, "seconds", above_zero=True)


def share(text: str) -> float:
    """Parse a share, more than 0 and at most a half."""
    value = _number(text, "a share", above_zero=True)
    if value > 0.5:
        raise argparse.ArgumentTypeError(f"expected a share of at most 0.5, got {text!r}")
    return value


def _number(text: str, unit: str, *, above_zero: bool) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf or (above_zero and value == 0):
        raise argparse.ArgumentTypeError(
            f"expected {unit}{', more than 0' if above_zero else ''}, got {text!r}"
        )
    return value


def address(text: str) -> tuple[str, int]:
    """Parse HOST:PORT."""
    host, colon, number = text.rpartition(":")
    if not host or not colon:
        raise argparse.ArgumentTypeError(f"expected HOST:PORT, got {text!r}")
    return host.strip("[]"), port(number)


def port(text: str) -> int:
    """Parse a TCP port, from 1024, as LitServe takes no lower one."""
    if not (text.isdecimal() and 1024 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"expected a port from 1024 to 65535, got {text!r}")
    return int(text)
