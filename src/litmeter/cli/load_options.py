"""What the options of ``loadtest`` ask for: where to send what, and the loads."""

from __future__ import annotations

import argparse
import os
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from litmeter.benchmark.target import CA_VARIABLE, Target, read_bodies, request_headers
from litmeter.errors import LoadError, UsageError
from litmeter.loadgen import LoadPlan, load_generator
from litmeter.loadgen.remote import remote_senders
from litmeter.loadgen.senders import Sender, local_senders
from litmeter.serving.binding import check_ca_file
from litmeter.system.progress import print_wrapped

CONTENT_TYPE = "application/json"
USERS = (1, 8)
CONNECTIONS = 256
"""Defaults of options, which are None where they were not given, so that contradictions are noticed."""
TRACE_EDGE_S = 0.2
"""Before the first and after the last request of a trace, so that all belong to its window."""


def target(options: argparse.Namespace) -> Target:
    """The server and the requests; ``--ca`` is put into the environment, for the load generator.

    Raises:
        UsageError: an option that cannot be used; LoadError: there is nothing to send.
    """
    if options.ca is not None:
        check_ca_file(options.ca)
        os.environ[CA_VARIABLE] = str(options.ca.resolve())
    content_type = options.content_type or CONTENT_TYPE
    bodies = read_bodies(options.body_file, options.images, content_type, options.template)
    return Target(options.url, bodies, content_type, request_headers(options.header))


def senders(options: argparse.Namespace, server: Target) -> AbstractContextManager[Sender]:
    """What sends the requests: one load generator, several on this machine, or those that join it."""
    sent = (server.bodies, server.content_type, server.headers)
    if options.listen is not None:
        return remote_senders(options.listen, options.senders or 1, *sent, print_wrapped)
    return load_generator(*sent) if options.senders is None else local_senders(options.senders, *sent)


def load_plans(options: argparse.Namespace) -> list[LoadPlan]:
    """The levels of a closed loop, or the one load of an open one.

    Raises:
        UsageError: options contradict each other; LoadError: the trace cannot be used.
    """
    _check_together(options)
    min_s, max_s = options.seconds
    if min_s > max_s:
        raise UsageError(f"--seconds: the minimum ({min_s:g}) is above the maximum ({max_s:g})")
    common = {
        "requests": options.requests,
        "warmup_s": options.warmup_s,
        "min_s": min_s,
        "max_s": max_s,
        "max_windows": options.max_windows,
        "timeout_s": options.timeout_s,
        "seed": options.seed,
    }
    connections = options.connections or CONNECTIONS
    if options.trace is not None:
        due_s = read_trace(options.trace, options.trace_scale or 1.0)
        seconds = due_s[-1] + TRACE_EDGE_S
        whole = {"requests": 1, "warmup_s": 0.0, "min_s": seconds, "max_s": seconds}
        rate_rps = len(due_s) / seconds
        return [LoadPlan(users=connections, **{**common, **whole}, rate_rps=rate_rps, due_s=due_s)]
    if options.rate is not None:
        plan = LoadPlan(users=connections, **common, rate_rps=options.rate)
        return [replace(plan, arrivals=options.arrivals) if options.arrivals else plan]
    return [LoadPlan(users=users, **common) for users in options.users or USERS]


def read_trace(path: Path, scale: float) -> tuple[float, ...]:
    """When requests are due, seconds from the begin of a load, by a file with a time stamp (s) in each line.

    Args:
        scale: rates are multiplied by this, and times divided.

    Raises:
        LoadError: the file cannot be read, holds something else, is not ascending, or has no length.
    """
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"{path}: {getattr(error, 'strerror', None) or 'not a text file'}") from error
    stamps: list[float] = []
    for number, line in enumerate(lines, 1):
        try:
            stamps.append(float(line))
        except ValueError:
            raise LoadError(f"{path}: line {number}: expected seconds, got {line[:40]!r}") from None
        if not stamps[0] <= stamps[-1] < float("inf") or stamps[-1] < max(stamps[-2:]):
            raise LoadError(f"{path}: line {number}: expected a time that is not before the last one")
    if len(stamps) < 2 or stamps[-1] == stamps[0]:
        raise LoadError(f"{path}: expected time stamps that differ, a line each")
    return tuple(TRACE_EDGE_S + (stamp - stamps[0]) / scale for stamp in stamps)


def _check_together(options: argparse.Namespace) -> None:
    """Raise UsageError for options of which one would be ignored."""
    open_loop = options.rate is not None or options.trace is not None
    contradictions = [
        ("--users", options.users, open_loop, "--rate or --trace"),
        ("--trace", options.trace, options.rate is not None, "--rate"),
        ("--arrivals", options.arrivals, options.trace is not None, "--trace"),
    ]
    for name, value, other, other_name in contradictions:
        if value is not None and other:
            raise UsageError(f"{name}: not together with {other_name}")
    needs = [
        ("--connections", options.connections, open_loop, "--rate or --trace"),
        ("--arrivals", options.arrivals, open_loop, "--rate"),
        ("--trace-scale", options.trace_scale, options.trace is not None, "--trace"),
    ]
    for name, value, other, other_name in needs:
        if value is not None and not other:
            raise UsageError(f"{name}: only together with {other_name}")
