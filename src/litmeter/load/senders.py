"""Several load generators as one, on this machine and on others: each sends its share of a load.

A process sends some thousands of requests a second at most. The shares of an open loop have random arrivals
of their own, whose sum is again a Poisson process. All shares begin and end at the same absolute times, and
their records are brought together, request by request, on this machine's clock.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from litmeter.errors import LoadError
from litmeter.load.generator import LoadPlan, OnProgress, load_generator
from litmeter.stats.records import REQUEST_FIELDS, LoadRecord

START_S = 1.0
"""From the order to begin until the first request: time for the order to reach all senders."""
POLL_S = 0.1


class Sender(Protocol):
    """What runs loads."""

    def run(self, url: str, plan: LoadPlan, *, on_progress: OnProgress) -> LoadRecord:
        """Run one load; when this returns or raises, no request is in flight."""


class SharingSender(Sender, Protocol):
    """What runs a share of a load: a ``LoadGenerator``, or one on another machine."""

    def wait_until_ready(self) -> None:
        """Wait until it can begin at once; raise LoadError if it has failed."""


@dataclass(frozen=True)
class Member:
    """One of several senders.

    Attributes:
        clock_s: its monotonic clock minus this machine's, seconds.
    """

    name: str
    sender: SharingSender
    clock_s: float = 0.0


class SenderGroup:
    """Senders that run each load together; used like a ``LoadGenerator``."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members
        self._threads = ThreadPoolExecutor(len(members))

    def run(self, url: str, plan: LoadPlan, *, on_progress: OnProgress = lambda seconds: None) -> LoadRecord:
        """Run one load, shared by all; when this returns or raises, no request is in flight.

        Args:
            on_progress: called a few times a second; an exception that it raises ends the load.

        Raises:
            LoadError: a sender failed; what the others measured is void.
        """
        for member in self.members:
            with _naming(member):
                member.sender.wait_until_ready()
        begin_at = time.perf_counter() + START_S
        measured_s = {member.name: 0.0 for member in self.members}
        stopped = threading.Event()

        def run_share(member: Member, share: LoadPlan) -> LoadRecord:
            def on_share_progress(seconds: float) -> None:
                if stopped.is_set():
                    raise LoadError("stopped")
                measured_s[member.name] = seconds

            own = replace(share, begin_at=begin_at + member.clock_s)
            with _naming(member):
                return member.sender.run(url, own, on_progress=on_share_progress)

        futures = {
            self._threads.submit(run_share, member, share): member
            for member, share in zip(self.members, shares_of(plan, len(self.members)), strict=True)
            if share is not None
        }
        try:
            pending = set(futures)
            while pending:
                done, pending = wait(pending, POLL_S, FIRST_COMPLETED)
                for future in done:
                    future.result()
                on_progress(max(measured_s.values()))
        except BaseException:
            stopped.set()
            wait(futures)
            raise
        records = [on_this_clock(future.result(), member.clock_s) for future, member in futures.items()]
        return merged(records, plan)

    def __enter__(self) -> SenderGroup:
        return self

    def __exit__(self, *_: object) -> None:
        """Give the threads up: those that still wait for a sender end when its process or connection does."""
        self._threads.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _naming(member: Member) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise LoadError(f"sender {member.name}: {error}; this load is void") from error


def shares_of(plan: LoadPlan, senders: int) -> list[LoadPlan | None]:
    """The plan of each sender: its part of the users or of the rate; None for one that has no part."""
    shares: list[LoadPlan | None] = []
    for number in range(senders):
        own = replace(plan, sender=number)
        if plan.rate_rps is None:
            users = plan.users // senders + (number < plan.users % senders)
            shares.append(replace(own, users=users) if users else None)
            continue
        own = replace(own, users=math.ceil(plan.users / senders), rate_rps=plan.rate_rps / senders)
        if plan.due_s is not None:
            due_s = plan.due_s[number::senders]
            shares.append(replace(own, due_s=due_s) if due_s else None)
        else:
            shares.append(replace(own, phase=number / senders))
    return shares


def on_this_clock(record: LoadRecord, clock_s: float) -> LoadRecord:
    """The record of a sender whose clock is ``clock_s`` ahead."""
    names = ("window_edges", "start", "sent", "end")
    times: dict[str, Any] = {name: getattr(record, name) - clock_s for name in names}
    return replace(record, **times)


def merged(records: Sequence[LoadRecord], plan: LoadPlan) -> LoadRecord:
    """All requests of ``records`` in the order in which they ended, in the windows of the first one."""
    users_before = np.cumsum([0, *(record.users for record in records)])
    arrays = {name: np.concatenate([getattr(record, name) for record in records]) for name in REQUEST_FIELDS}
    arrays["user"] += np.repeat(users_before[:-1], [len(record.user) for record in records])
    order = np.argsort(arrays["end"], kind="stable")
    return LoadRecord(
        users=int(users_before[-1]),
        rate_rps=plan.rate_rps,
        window_edges=records[0].window_edges,
        cores=max(record.cores for record in records),
        **{name: values[order] for name, values in arrays.items()},
    )


@contextmanager
def local_senders(
    number: int, bodies: Sequence[bytes], content_type: str, headers: Mapping[str, str] | None = None
) -> Iterator[SenderGroup]:
    """Start ``number`` load generators on this machine; end them when the block is left."""
    with ExitStack() as stack:
        generators = [load_generator(bodies, content_type, headers) for _ in range(number)]
        members = [
            Member(f"{index} on this machine", stack.enter_context(generator))
            for index, generator in enumerate(generators, 1)
        ]
        yield stack.enter_context(SenderGroup(members))


def clock_difference(ask: Callable[[], float], tries: int = 20) -> tuple[float, float]:
    """Another clock minus this one, and half of the fastest round trip, by which it may be off; seconds.

    Args:
        ask: returns the other clock's time.
    """
    trips = []
    for _ in range(tries):
        asked = time.perf_counter()
        theirs = ask()
        answered = time.perf_counter()
        trips.append((answered - asked, theirs - (asked + answered) / 2))
    trip_s, difference_s = min(trips)
    return difference_s, trip_s / 2
