"""What becomes of a request when its head has come."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from litmeter.serving.direct.channel import UNCLAIMED
from litmeter.serving.direct.dispatcher import STOPPING, Dispatcher
from litmeter.serving.direct.route import FULL, Admission, Admitted, Headers
from litmeter.serving.errors import Reply
from litmeter.serving.middleware import UNAUTHORISED, UNSUPPORTED_TYPE
from tests.support.direct import open_channel

MAX_BYTES = 10
KEY = [(b"x-api-key", b"open-sesame")]
IMAGE = [(b"content-type", b"image/jpeg")]
JSON = [(b"content-type", b"application/json; charset=utf-8")]
TEXT = [(b"content-type", b"text/plain")]
FITS = [(b"content-length", b"10")]
TOO_LARGE = [(b"content-length", b"11")]


@pytest.fixture
def dispatcher() -> Iterator[Dispatcher]:
    """With one slot."""
    with open_channel(1) as channel:
        yield Dispatcher(channel, 10.0, 1)


def with_key(dispatcher: Dispatcher) -> Admission:
    return Admission(dispatcher, MAX_BYTES, "open-sesame", timed=False)


def status(decision: Admitted | Reply) -> int:
    assert not isinstance(decision, Admitted)
    return decision[0]


@pytest.mark.parametrize(
    ("headers", "is_image"), [(KEY + IMAGE + FITS, True), (KEY + JSON + FITS, False), (KEY + JSON, False)]
)
def test_a_good_request_gets_a_slot(dispatcher: Dispatcher, headers: Headers, is_image: bool) -> None:
    decision = with_key(dispatcher).decide(headers)
    assert isinstance(decision, Admitted)
    assert decision.is_image is is_image
    assert dispatcher.full
    dispatcher.release(decision.slot)
    assert not dispatcher.full
    assert decision.slot != UNCLAIMED


@pytest.mark.parametrize(
    ("headers", "expected", "reason"),
    [
        (IMAGE + FITS, 401, "X-API-Key: missing or wrong"),
        ([(b"x-api-key", b"open-sesam"), *IMAGE], 401, "X-API-Key: missing or wrong"),
        (KEY + TEXT + FITS, 415, UNSUPPORTED_TYPE),
        (KEY + FITS, 415, UNSUPPORTED_TYPE),
        (KEY + IMAGE + TOO_LARGE, 413, "Payload too large"),
    ],
)
def test_a_refused_request_gets_its_reason_and_no_slot(
    dispatcher: Dispatcher, headers: Headers, expected: int, reason: str
) -> None:
    decision = with_key(dispatcher).decide(headers)
    assert not isinstance(decision, Admitted)
    assert (decision[0], json.loads(decision[1])) == (expected, {"detail": reason})
    assert not dispatcher.full


def test_a_server_without_a_key_asks_for_none(dispatcher: Dispatcher) -> None:
    assert isinstance(Admission(dispatcher, MAX_BYTES, None, timed=False).decide(IMAGE), Admitted)


def test_stopping_comes_before_full_key_type_and_size(dispatcher: Dispatcher) -> None:
    """One reason is added after another; each hides those that were there before."""
    admission = with_key(dispatcher)
    assert status(admission.decide(KEY + IMAGE + TOO_LARGE)) == 413
    assert status(admission.decide(KEY + TEXT + TOO_LARGE)) == 415
    assert admission.decide(TEXT + TOO_LARGE) is UNAUTHORISED
    slot = dispatcher.acquire()
    assert slot is not None
    assert admission.decide(TEXT + TOO_LARGE) is FULL
    assert admission.decide(KEY + IMAGE + FITS) is FULL
    dispatcher.stopping = True
    assert admission.decide(TEXT + TOO_LARGE) is STOPPING
    dispatcher.release(slot)
    assert admission.decide(KEY + IMAGE + FITS) is STOPPING


@pytest.mark.parametrize(
    ("status", "close", "stopping", "expected"),
    [
        (200, False, False, {}),
        (413, True, False, {b"connection": b"close"}),
        (503, False, False, {b"retry-after": b"1"}),
        (200, False, True, {b"connection": b"close"}),
    ],
)
def test_headers_say_when_to_retry_and_what_is_closed(
    dispatcher: Dispatcher, status: int, close: bool, stopping: bool, expected: dict[bytes, bytes]
) -> None:
    dispatcher.stopping = stopping
    headers = with_key(dispatcher).response_headers(status, close=close)
    assert headers == [(b"content-type", b"application/json"), *expected.items()]


def test_the_bytes_that_have_come_are_bounded_and_one_alone_is_taken() -> None:
    with open_channel(4) as channel:
        dispatcher = Dispatcher(channel, 10.0, 1, max_body_bytes=100)
        first, second = dispatcher.acquire(), dispatcher.acquire()
        assert first is not None
        assert second is not None
        assert dispatcher.hold(first, 60)
        assert dispatcher.has_room(40)
        assert dispatcher.hold(second, 40)
        assert not dispatcher.has_room(40)
        assert not dispatcher.hold(second, 1)
        dispatcher.release(second)
        assert dispatcher.has_room(40)
        assert dispatcher.hold(first, 90)
        assert not dispatcher.has_room(40)
        dispatcher.release(first)
        assert dispatcher.has_room(40)


def test_large_bodies_keep_no_small_one_out() -> None:
    """Of 4 slots' maximum of 100 bytes, 25 are small."""
    with open_channel(4) as channel:
        dispatcher = Dispatcher(channel, 10.0, 1, max_body_bytes=100)
        admission = Admission(dispatcher, 1000, None, timed=False)
        large = admission.decide([*IMAGE, (b"content-length", b"200")])
        assert isinstance(large, Admitted)
        assert dispatcher.hold(large.slot, 200)
        assert admission.decide([*IMAGE, (b"content-length", b"26")]) is FULL
        small = admission.decide([*IMAGE, (b"content-length", b"25")])
        unknown = admission.decide(IMAGE)
        assert isinstance(small, Admitted)
        assert isinstance(unknown, Admitted)
        assert dispatcher.hold(small.slot, 25)
        assert dispatcher.hold(unknown.slot, 25)
        assert not dispatcher.hold(unknown.slot, 1)
