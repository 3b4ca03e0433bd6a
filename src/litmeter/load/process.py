"""The process of a ``LoadGenerator``: ``python -m litmeter.load.process``.

Each user is a greenlet with its own connection; the main greenlet decides when windows begin and end.
"""

from __future__ import annotations

import bisect
import errno
import itertools
import json
import math
import pickle
import random
import resource
import sys
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import gevent
import gevent.socket
import gevent.ssl
import numpy as np
from gevent.event import Event
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from litmeter.errors import LoadError
from litmeter.load.generator import RECORD, LoadPlan
from litmeter.load.pieces import Pieces, unit_of
from litmeter.stats.records import (
    FAILED,
    OK,
    REQUEST_FIELDS,
    TIMED_OUT,
    WINDOWS,
    Floats,
    LoadRecord,
    steady,
    window_means,
)
from litmeter.stats.streams import READS, Streams

TICK_S = 0.05
PROGRESS_S = 0.25
"""Interval of progress events."""
PAUSE_AFTER_FAILURE_S = 0.1
"""A refused connection fails in microseconds: without a pause, users of a closed loop would spin."""
IDLE_S = 1.0
"""A connection idle for longer is opened anew: the server may have closed it."""
READ_BYTES = 65_536
STALL_S = 0.035, 0.06
"""Between the head and the end of an answer, at least and at most, that a delayed acknowledgement takes."""
OWN_ERRORS = (errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM)
"""Of a connection that this process cannot open: no descriptor, port or memory is free."""
MOST_PIECES = 10_000_000
"""The most pieces that a load may have: 80 MB, and twice as much once it ends."""


def post_head(url: str, headers: Mapping[str, str], body_bytes: int) -> bytes:
    """The head of a POST request with a body of ``body_bytes``."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    defaults = {"Host": parts.netloc.rpartition("@")[2], "Accept": "*/*", "Content-Length": str(body_bytes)}
    given = {name.lower() for name in headers}
    kept = {name: value for name, value in defaults.items() if name.lower() not in given}
    fields = [f"{name}: {value}" for name, value in {**kept, **headers}.items()]
    return "\r\n".join([f"POST {target} HTTP/1.1", *fields, "", ""]).encode("latin-1")


class _Responses:
    """Successive responses of one TCP connection, by httptools' callbacks."""

    def __init__(self) -> None:
        self.parser = HttpResponseParser(self)
        self.begin()

    def begin(self) -> None:
        self.content = bytearray()
        self.pieces: Pieces | None = None
        self.received = self.head_at = 0.0  # when the data came that is being parsed, and the head
        self.complete = self.closes = False
        self._head_ended = self._has_length = self._chunked = False
        self._content_type = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        match name.lower():
            case b"content-length":
                self._has_length = True
            case b"transfer-encoding":
                self._chunked = True
            case b"content-type" if not value.startswith(b"application/json"):
                self._content_type = value

    def on_headers_complete(self) -> None:
        self._head_ended, self.head_at = True, self.received
        if not self._has_length or self._content_type:
            unit = unit_of(self._content_type, chunked=self._chunked, has_length=self._has_length)
            self.pieces = None if unit is None else Pieces(unit)

    def on_body(self, data: bytes) -> None:
        self.content += data
        if self.pieces:
            self.pieces.add(data, self.received)

    def on_chunk_complete(self) -> None:
        if self.pieces:
            self.pieces.end_chunk(self.received)

    def on_message_complete(self) -> None:
        self.complete = self._head_ended = self.parser.get_status_code() >= 200  # the answer follows a 1xx
        self.closes = not self.parser.should_keep_alive()
        if self.pieces:
            self.pieces.end(self.received)

    def on_connection_end(self) -> None:
        """End a body without a length; raise ConnectionResetError for a truncated response."""
        if not self._head_ended or self._has_length or self._chunked:
            raise ConnectionResetError("closed before the response was complete")
        if self.pieces:
            self.pieces.end(self.received)
        self.complete = self.closes = True


class Answer(NamedTuple):
    """A response: its HTTP status, 0 without one; its body; and its pieces, None where it has a length.

    ``body_s`` is the time from head to end; ``sent`` is False where this process could open no connection.
    """

    code: int
    content: bytes | bytearray
    pieces: Pieces | None
    body_s: float = 0.0
    sent: bool = True

    @property
    def is_good(self) -> bool:
        """Whether it has status 200 and, if events or chunks, content, and no event that says it failed.

        LitServe ends an answer without a chunk where the generator fails before the first piece.
        """
        if self.code != 200 or self.pieces is None or self.pieces.unit == READS:
            return self.code == 200
        return bool(self.pieces.times) and not self.pieces.failed


class Connection:
    """One user's keep-alive connection, reopened after it was closed.

    The load generator shares cores with the measured server, so requests must cost little CPU time: they are
    prepared as bytes, and llhttp parses the responses.

    Args:
        timeout_s: of one request, from connecting to the end of the response.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = None
        if parts.scheme == "https":
            self._tls = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_CLIENT)
            self._tls.load_default_certs()
        self._timeout_s = timeout_s
        self._socket: gevent.socket.socket | None = None
        self._response = _Responses()
        self._last_used = 0.0

    def send(self, request: bytes) -> Answer:
        """Send a request; return the response, with status 0 after an error or a timeout."""
        try:
            with gevent.Timeout(self._timeout_s):
                return self._exchange(request)
        except (OSError, HttpParserError, HttpParserUpgrade, gevent.Timeout) as error:
            self.close()
            return Answer(0, b"", None, sent=getattr(error, "errno", None) not in OWN_ERRORS)

    def close(self) -> None:
        """Close the connection, if it is open; the next request reopens it."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _exchange(self, request: bytes) -> Answer:
        if perf_counter() - self._last_used > IDLE_S:
            self.close()
        if self._socket is None:
            self._socket = self._open()
            self._response = _Responses()
        # A server may answer and close before it has read the whole request: the response can be read.
        with suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(request)
        response = self._response
        response.begin()
        while not response.complete:
            if data := self._socket.recv(READ_BYTES):
                response.received = perf_counter()
                response.parser.feed_data(data)
            else:
                response.on_connection_end()
        if response.closes:
            self.close()
        self._last_used = perf_counter()
        body_s = response.received - response.head_at
        return Answer(response.parser.get_status_code(), response.content, response.pieces, body_s)

    def _open(self) -> gevent.socket.socket:
        opened = gevent.socket.create_connection((self._host, self._port))
        opened.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
        return self._tls.wrap_socket(opened, server_hostname=self._host) if self._tls else opened


class ClosedLoop:
    """Arrivals of a closed loop: a user's next request is due at the answer to its last request."""

    ended = False  # set when the level ends: no more requests are sent

    def wait(self) -> float | None:
        """Wait until the user's next request is due; return the due time, None after the level's end."""
        return None if self.ended else perf_counter()


class OpenLoop(ClosedLoop):
    """Arrivals of an open loop: requests are due at given times, whatever the answers.

    While all users are busy, requests are sent late. Latency counts from the due time, so that a stalled
    server cannot hide the stall by delaying its users (coordinated omission).

    One idle user waits for the next arrival. All other idle users are parked on a stack, last in, first out:
    idle users cost nothing, and the load uses no more connections than the rate needs.

    Args:
        due_s: due times, seconds from now, ascending.
    """

    def __init__(self, due_s: Iterator[float]) -> None:
        self._due_s = due_s
        self._started = perf_counter()
        self._user_waits = False
        self._parked: list[Event] = []

    def wait(self) -> float | None:
        """Wait until the next arrival."""
        if self._user_waits:
            self._parked.append(woken := Event())
            woken.wait()
        self._user_waits = True
        due_s = next(self._due_s, None)
        if due_s is not None and (wait_s := self._started + due_s - perf_counter()) > 0:
            gevent.sleep(wait_s)
        if self._parked:
            self._parked.pop().set()
        else:
            self._user_waits = False
        return None if self.ended or due_s is None else self._started + due_s


def due_times(plan: LoadPlan) -> Iterator[float]:
    """Due times of this sender's requests in an open loop, seconds from the begin, ascending."""
    if plan.due_s is not None:
        due_s = iter(plan.due_s)
    else:
        assert plan.rate_rps is not None
        shape, gap_s = plan.burstiness, 1 / (plan.rate_rps * plan.senders)
        rng = random.Random(plan.random_seed)
        gaps = iter(lambda: rng.gammavariate(shape, gap_s / shape), None)
        due_s = itertools.accumulate(gaps if shape < math.inf else itertools.repeat(gap_s))
    return itertools.islice(due_s, plan.sender, None, plan.senders)


Edge = tuple[float, float]
"""Begin or end of a window, and this process's CPU time then, seconds."""


class Level:
    """One load: its users, who send ``requests`` (head and body of each), and its record."""

    def __init__(self, url: str, requests: Sequence[tuple[bytes, bytes]], plan: LoadPlan) -> None:
        self._url, self._requests, self._plan = url, requests, plan
        self._rows: list[tuple[int, float, float, float, int, int, int, int]] = []
        self._answers: list[bytes | bytearray] = []
        self._streamed: list[tuple[int, int, int, int]] = []  # number of the request, unit, count and tokens
        self._piece_at, self._piece_bytes = array("f"), array("I")
        self._good = 0  # number of good answers
        self._stalled = self._unsent = 0  # answers that came in STALL_S, and requests that could not be sent
        self._opened = math.inf  # when the first window opened; infinite before
        self._answered = [False] * plan.users  # whether each user's first request has ended
        self._in_flight_since = [math.inf] * plan.users  # due time of each user's request; infinite without

    def run(self) -> LoadRecord:
        """Run the load."""
        plan = self._plan
        progress = gevent.spawn(self._report_progress)
        if plan.begin_at is not None:
            sleep_until(plan.begin_at)
        edges = [(started := perf_counter(), process_time())]
        arrivals = ClosedLoop() if plan.rate_rps is None else OpenLoop(due_times(plan))
        users = self._start_users(arrivals)

        # In a closed loop the warm-up starts after every user has had an answer or a timeout.
        if plan.begin_at is not None:
            edges = self._measure_at(plan.begin_at + plan.warmup_s)
        elif plan.rate_rps is not None or self._wait_for_first_answers(started):
            gevent.sleep(plan.warmup_s)
            edges = self._measure()
        else:
            while self.sent < plan.requests and perf_counter() < started + plan.max_s:
                gevent.sleep(TICK_S)

        arrivals.ended = True
        wait_until(lambda: min(self._in_flight_since) == math.inf)
        if len(edges) == 1:
            edges.append((perf_counter(), process_time()))
        gevent.killall([progress, *users])  # users may still wait for an arrival
        times, cpu_s = np.array(edges).T
        reported = slice(-WINDOWS - 1, None)
        return self.record(times, float(np.ptp(cpu_s[reported]) / np.ptp(times[reported])))

    @property
    def sent(self) -> int:
        """Number of requests that have ended or are in flight."""
        return len(self._rows) + sum(since < math.inf for since in self._in_flight_since)

    def add(self, user: int, body: int, due: float, sent: float, end: float, answer: Answer) -> bool:
        """Record one request, unless it was not sent; return whether its answer is good."""
        self._answered[user] = True
        if not answer.sent:
            self._unsent += 1
            return False
        if answer.is_good:
            status = OK
        else:
            status = TIMED_OUT if answer.code == 0 and end - sent >= self._plan.timeout_s else FAILED
        self._rows.append((user, due, sent, end, status, answer.code, len(answer.content), body))
        if answer.pieces is not None:
            self._add_pieces(due, answer.pieces)
        if self._plan.keep_answers:
            self._answers.append(answer.content)
        self._good += status == OK
        self._stalled += status == OK and STALL_S[0] <= answer.body_s <= STALL_S[1] and not answer.pieces
        return status == OK

    def _add_pieces(self, due: float, pieces: Pieces) -> None:
        """Keep the pieces of the last recorded request."""
        self._streamed.append((len(self._rows) - 1, pieces.unit, len(pieces.times), pieces.tokens))
        self._piece_at.extend(time - due for time in pieces.times)
        self._piece_bytes.extend(pieces.sizes)
        if len(self._piece_at) > MOST_PIECES:
            raise LoadError(f"answers have more than {MOST_PIECES:,} pieces in a turn: ask for shorter ones")

    def record(self, window_edges: Floats, cores: float) -> LoadRecord:
        """All requests that have ended."""
        columns = np.array(self._rows, dtype=np.float64).reshape(-1, len(REQUEST_FIELDS)).T
        fields: dict[str, Any] = dict(zip(REQUEST_FIELDS, columns, strict=True))
        for name in ("user", "status", "code", "size", "body"):
            fields[name] = fields[name].astype(np.int64)
        fields |= {"answers": [*map(bytes, self._answers)], "stalled": self._stalled, "unsent": self._unsent}
        if self._piece_at:
            request, *known = np.array(self._streamed, dtype=np.int64).T
            unit, count, tokens = np.zeros((3, len(self._rows)), dtype=np.int64)  # NOT_STREAMED
            unit[request], count[request], tokens[request] = known
            at, size = np.array(self._piece_at, dtype=np.float64), np.array(self._piece_bytes, dtype=np.int64)
            fields["streams"] = Streams(unit, count, tokens, at, size)
        return LoadRecord(self._plan.users, self._plan.rate_rps, window_edges, cores=cores, **fields)

    def _start_users(self, arrivals: ClosedLoop) -> list[gevent.Greenlet]:
        """Start the users, who send until the level ends; a user's exception ends this process."""
        main = gevent.getcurrent()
        order = self._plan.bodies
        if order is None:
            order = list(range(len(self._requests)))
            random.Random(self._plan.random_seed).shuffle(order)
        indices = itertools.islice(itertools.cycle(order), self._plan.sender, None, self._plan.senders)
        pause_s = PAUSE_AFTER_FAILURE_S if self._plan.rate_rps is None else 0.0

        def use(number: int) -> None:
            connection = Connection(self._url, self._plan.timeout_s)
            try:
                while (due := arrivals.wait()) is not None:
                    index = next(indices)
                    request = b"".join(self._requests[index])
                    self._in_flight_since[number] = due
                    sent = perf_counter()
                    answer = connection.send(request)
                    end = perf_counter()
                    self._in_flight_since[number] = math.inf
                    if not self.add(number, index, due, sent, end, answer):
                        gevent.sleep(pause_s)
            except Exception as error:
                gevent.kill(main, error)
            finally:
                connection.close()

        return [gevent.spawn(use, number) for number in range(self._plan.users)]

    def _report_progress(self) -> None:
        """Emit progress events all the time, so that the load can be stopped at any time."""
        while True:
            gevent.sleep(PROGRESS_S)
            emit("progress", round(max(0.0, perf_counter() - self._opened), 2))

    def _measure_at(self, opened: float) -> list[Edge]:
        """Measure three windows from ``opened`` on, ``plan.min_s`` long together."""
        self._opened = opened
        edges = []
        for number in range(WINDOWS + 1):
            sleep_until(edge := opened + number * self._plan.min_s / WINDOWS)
            edges.append((edge, process_time()))
        wait_until(lambda: min(self._in_flight_since) >= edge)
        return edges

    def _wait_for_first_answers(self, started: float) -> bool:
        """Wait until every user has had an answer or a timeout; False if the load has a single window before.

        A server whose queue of new connections is short (Python's socketserver: 5) drops some of those that
        are opened at once, and the kernel repeats them after 1 s, 3 s and 7 s. By Little's law a server that
        has answered as many requests as there are users is not slow: they are waited for, as without them
        the rate would be too low.
        """
        plan = self._plan

        def gives_up() -> bool:
            waited_s = perf_counter() - started
            too_long = plan.give_up_s is not None and waited_s > plan.give_up_s
            return too_long and (self._good < plan.users or waited_s > plan.max_s)

        wait_until(lambda: all(self._answered) or gives_up())
        return all(self._answered)

    def _measure(self) -> list[Edge]:
        """Measure windows until the last three agree, or ``max_windows`` are complete.

        A window is complete when all requests that overlap the window have ended; meanwhile the load goes on.
        """
        plan = self._plan
        edges = [(perf_counter(), process_time())]
        self._opened = edges[0][0]
        good_at_edge, complete = self._good, 0
        while True:
            gevent.sleep(TICK_S)
            now, answers = perf_counter(), self._good - good_at_edge
            # Windows end at ticks, so that none ends exactly at an answer.
            seconds = now - edges[-1][0]
            enough = seconds >= plan.min_s / WINDOWS and answers >= plan.requests / WINDOWS
            if len(edges) <= plan.max_windows and (enough or seconds >= plan.max_s / WINDOWS):
                edges.append((now, process_time()))
                good_at_edge = self._good
            times = [time for time, _ in edges]
            newly_complete = bisect.bisect_right(times, min(self._in_flight_since)) - 1
            if newly_complete > complete:
                complete = newly_complete
                # Poisson arrivals vary too much for the stopping rule.
                agree = complete >= WINDOWS and (
                    plan.rate_rps is not None or self._agree(times[complete - WINDOWS : complete + 1])
                )
                if agree or complete >= plan.max_windows:
                    return edges[: complete + 1]

    def _agree(self, edges: list[float]) -> bool:
        """Whether the complete windows between ``edges`` agree."""
        good = [(start, end) for _, start, _, end, status, *_ in self._rows if status == OK]
        if not good:
            return False
        (start, end), windows = np.array(good).T, np.array(edges)
        return steady(*window_means(start, end, windows))


def sleep_until(time: float) -> None:
    """Sleep until ``time`` (monotonic clock) while the users go on."""
    gevent.sleep(max(0.0, time - perf_counter()))


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until ``condition`` holds while the users go on."""
    while not condition():
        gevent.sleep(TICK_S)


def emit(event: str, *values: float) -> None:
    """Print an event as a line of JSON for ``LoadGenerator``."""
    print(json.dumps([event, *values]), flush=True)


def main() -> None:
    """Run a load for each line of standard input (JSON: url and plan) after the settings."""
    settings = json.loads(sys.stdin.readline())
    with suppress(ValueError, OSError):  # each user takes a descriptor
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    folder = Path(settings["folder"])
    bodies = [path.read_bytes() for path in sorted(folder.glob("*.body"))]
    emit("ready")
    for line in sys.stdin:
        job = json.loads(line)
        heads = [post_head(job["url"], settings["headers"], len(body)) for body in bodies]
        requests = list(zip(heads, bodies, strict=True))
        plan = LoadPlan(**job["plan"])
        if plan.begin_at is not None and (late_s := perf_counter() - plan.begin_at - plan.warmup_s) > 0:
            emit("late", round(late_s, 3))
            continue
        try:
            (folder / RECORD).write_bytes(pickle.dumps(Level(job["url"], requests, plan).run()))
        except LoadError as error:
            sys.exit(str(error))
        emit("done")


if __name__ == "__main__":
    main()
