"""Several load generators as one: each sends its share of a load.

One process sends at most some thousands of requests a second. The senders split the arrivals of an open loop
equally, so that all together send what a single sender would. All shares begin and end at the same absolute
times. Their records are merged, request by request, on this machine's clock.
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
from litmeter.load.generator import LoadGenerator, LoadPlan, OnProgress, load_generator
from litmeter.stats.records import REQUEST_FIELDS, LoadRecord
from litmeter.stats.streams import no_streams, together

START_S, DUE_S = 1.0, 2e-6
"""Time from the order to begin until the first request, in which the order reaches all senders; plus DUE_S
for each request of a trace and sender."""
POLL_S = 0.1


class Single(Protocol):
    """A ``LoadGenerator``, or a proxy for one on another machine."""

    def wait_until_ready(self) -> None:
        """Wait until a load can run; raise LoadError if the sender has died."""

    def run(self, url: str, plan: LoadPlan, *, on_progress: OnProgress) -> LoadRecord:
        """Run one load; see ``LoadGenerator.run``."""


@dataclass(frozen=True)
class Member:
    """A sender of a group."""

    name: str
    sender: Single
    clock_s: float = 0.0  # the sender's monotonic clock minus this machine's


@dataclass(frozen=True)
class SenderGroup:
    """Senders that share each load; used like a ``LoadGenerator``."""

    members: list[Member]

    def run(self, url: str, plan: LoadPlan, *, on_progress: OnProgress = lambda seconds: None) -> LoadRecord:
        """Run one load, as ``LoadGenerator.run``; raise LoadError if any sender failed."""
        for member in self.members:
            with _naming(member):
                member.sender.wait_until_ready()
        begin_at = time.perf_counter() + START_S + DUE_S * len(self.members) * len(plan.due_s or ())
        stopped = threading.Event()

        def run_share(member: Member, share: LoadPlan) -> LoadRecord:
            def end_if_stopped(seconds: float) -> None:
                if stopped.is_set():
                    raise LoadError("stopped")

            own = replace(share, begin_at=begin_at + member.clock_s)
            with _naming(member):
                return member.sender.run(url, own, on_progress=end_if_stopped)

        threads = ThreadPoolExecutor(len(self.members))
        futures = {
            threads.submit(run_share, member, share): member
            for member, share in zip(self.members, shares_of(plan, len(self.members)), strict=True)
            if share is not None
        }
        try:
            pending = set(futures)
            while pending:
                done, pending = wait(pending, POLL_S, FIRST_COMPLETED)
                for future in done:
                    future.result()
                on_progress(max(0.0, time.perf_counter() - begin_at - plan.warmup_s))
        except BaseException:
            stopped.set()
            wait(futures)
            raise
        finally:  # a thread that waits for a sender ends with the sender's process
            threads.shutdown(wait=False, cancel_futures=True)
        records = [on_this_clock(future.result(), member.clock_s) for future, member in futures.items()]
        return merged(records, plan)


Sender = LoadGenerator | SenderGroup


@contextmanager
def _naming(member: Member) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise LoadError(f"sender {member.name}: {error}; this load is void") from error


def shares_of(plan: LoadPlan, senders: int) -> list[LoadPlan | None]:
    """The plan of each sender: its part of the users or of the rate; None for a sender without a part."""
    shares: list[LoadPlan | None] = []
    for number in range(senders):
        own = replace(plan, sender=number, senders=senders)
        if plan.rate_rps is None:
            users = plan.users // senders + (number < plan.users % senders)
            shares.append(replace(own, users=users) if users else None)
        else:
            users = math.ceil(plan.users / senders)
            shares.append(replace(own, users=users, rate_rps=plan.rate_rps / senders))
    return shares


def on_this_clock(record: LoadRecord, clock_s: float) -> LoadRecord:
    """The record of a sender whose clock is ``clock_s`` ahead of this machine's."""
    names = ("window_edges", "start", "sent", "end")
    times: dict[str, Any] = {name: getattr(record, name) - clock_s for name in names}
    return replace(record, **times)


def merged(records: Sequence[LoadRecord], plan: LoadPlan) -> LoadRecord:
    """All requests of ``records`` in the order of their ends, in the windows of the first record."""
    users_before = np.cumsum([0, *(record.users for record in records)])
    arrays = {name: np.concatenate([getattr(record, name) for record in records]) for name in REQUEST_FIELDS}
    arrays["user"] += np.repeat(users_before[:-1], [len(record.user) for record in records])
    order = np.argsort(arrays["end"], kind="stable")
    answers = [answer for record in records for answer in record.answers]
    streams = None
    if any(record.streams for record in records):
        streams = together([record.streams or no_streams(len(record.user)) for record in records])
    return LoadRecord(
        users=int(users_before[-1]),
        rate_rps=plan.rate_rps,
        window_edges=records[0].window_edges,
        stalled=sum(record.stalled for record in records),
        unsent=sum(record.unsent for record in records),
        cores=max(record.cores for record in records),
        answers=[answers[place] for place in order] if answers else (),
        streams=streams and streams.reordered(order),
        **{name: values[order] for name, values in arrays.items()},
    )


@contextmanager
def local_senders(
    number: int, bodies: Sequence[bytes], content_type: str, headers: Mapping[str, str] | None = None
) -> Iterator[SenderGroup]:
    """Start ``number`` load generators on this machine; end them with the block."""
    with ExitStack() as stack:
        members = []
        for index in range(number):
            generator = stack.enter_context(load_generator(bodies, content_type, headers))
            members.append(Member(f"{index + 1} on this machine", generator))
        yield SenderGroup(members)


def clock_difference(ask: Callable[[], float]) -> tuple[float, float]:
    """The clock that ``ask`` reads minus this clock, and its largest error: half the fastest round trip."""
    trips = []
    for _ in range(20):
        asked = time.perf_counter()
        theirs = ask()
        answered = time.perf_counter()
        trips.append((answered - asked, theirs - (asked + answered) / 2))
    trip_s, difference_s = min(trips)
    return difference_s, trip_s / 2
