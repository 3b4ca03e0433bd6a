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
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

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
            _wait_until_ready(member)
        begin_at = time.perf_counter() + START_S
        measured_s: dict[str, float] = {}
        stopped = threading.Event()
        futures: dict[Future[LoadRecord], Member] = {}
        for member, share in zip(self.members, shares_of(plan, len(self.members)), strict=True):
            if share is not None:
                own = replace(share, begin_at=begin_at + member.clock_s)
                futures[self._threads.submit(_run_share, member, url, own, measured_s, stopped)] = member
        try:
            self._follow(futures, measured_s, on_progress)
        except BaseException:
            stopped.set()
            wait(futures)
            raise
        records = [on_this_clock(future.result(), member.clock_s) for future, member in futures.items()]
        return merged(records, plan)

    def _follow(
        self,
        futures: Mapping[Future[LoadRecord], Member],
        measured_s: Mapping[str, float],
        on_progress: OnProgress,
    ) -> None:
        pending = set(futures)
        while pending:
            done, pending = wait(pending, POLL_S, FIRST_COMPLETED)
            for future in done:
                if (error := future.exception()) is not None:
                    raise _void(futures[future], error) from error
            on_progress(max(list(measured_s.values()), default=0.0))

    def __enter__(self) -> SenderGroup:
        return self

    def __exit__(self, *_: object) -> None:
        """Give the threads up: those that still wait for a sender end when its process or connection does."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _void(member: Member, error: BaseException) -> LoadError:
    return LoadError(f"sender {member.name}: {error}; this load is void")


def _wait_until_ready(member: Member) -> None:
    try:
        member.sender.wait_until_ready()
    except LoadError as error:
        raise _void(member, error) from error


def _run_share(
    member: Member,
    url: str,
    plan: LoadPlan,
    measured_s: dict[str, float],
    stopped: threading.Event,
) -> LoadRecord:
    def on_progress(seconds: float) -> None:
        if stopped.is_set():
            raise LoadError("stopped")
        measured_s[member.name] = seconds

    return member.sender.run(url, plan, on_progress=on_progress)


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
    return replace(
        record,
        window_edges=record.window_edges - clock_s,
        start=record.start - clock_s,
        sent=record.sent - clock_s,
        end=record.end - clock_s,
    )


def merged(records: Sequence[LoadRecord], plan: LoadPlan) -> LoadRecord:
    """All requests of ``records`` in the order in which they ended, in the windows of the first one."""
    users_before = np.cumsum([0, *(record.users for record in records)])
    arrays = {name: np.concatenate([getattr(record, name) for record in records]) for name in REQUEST_FIELDS}
    arrays["user"] = np.concatenate(
        [record.user + before for record, before in zip(records, users_before, strict=False)]
    )
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
        members = []
        for index in range(1, number + 1):
            generator = stack.enter_context(load_generator(bodies, content_type, headers))
            members.append(Member(f"{index} on this machine", generator))
        yield stack.enter_context(SenderGroup(members))


def clock_difference(ask: Callable[[], float], tries: int = 20) -> tuple[float, float]:
    """Another clock minus this one, and half of the fastest round trip, by which it may be off; seconds.

    Args:
        ask: returns the other clock's time.
    """
    best_s, difference_s = math.inf, 0.0
    for _ in range(tries):
        asked = time.perf_counter()
        theirs = ask()
        answered = time.perf_counter()
        if answered - asked < best_s:
            best_s, difference_s = answered - asked, theirs - (asked + answered) / 2
    return difference_s, best_s / 2
