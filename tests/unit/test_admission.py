"""What becomes of a request when its head has come."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from litmeter.serve.direct.dispatcher import STOPPING, Dispatcher
from litmeter.serve.direct.http import FULL
from litmeter.serve.errors import Reply
from litmeter.serve.middleware import UNAUTHORISED
from tests.support.direct import open_channel, route_to

KEY = [(b"x-api-key", b"open-sesame")]
IMAGE = [(b"content-type", b"image/jpeg")]
TEXT = [(b"content-type", b"text/plain")]
FITS = [(b"content-length", b"10")]
TOO_LARGE = [(b"content-length", b"11")]


@pytest.fixture
def dispatcher() -> Iterator[Dispatcher]:
    """With one slot."""
    with open_channel(1) as channel:
        yield Dispatcher(channel, 10.0, 1)


def status(decision: tuple[int, bool] | Reply) -> int:
    assert isinstance(decision, Reply)
    return decision.status


def slot_of(decision: tuple[int, bool] | Reply) -> int:
    assert not isinstance(decision, Reply)
    return decision[0]


def test_stopping_comes_before_full_key_type_and_size(dispatcher: Dispatcher) -> None:
    """One reason is added after another; each hides those that were there before."""
    route = route_to(dispatcher, 10, "open-sesame")
    assert status(route.admit(KEY + IMAGE + TOO_LARGE)) == 413
    assert status(route.admit(KEY + TEXT + TOO_LARGE)) == 415
    assert route.admit(TEXT + TOO_LARGE) is UNAUTHORISED
    slot = dispatcher.slots.acquire()
    assert slot is not None
    assert route.admit(TEXT + TOO_LARGE) is FULL
    assert route.admit(KEY + IMAGE + FITS) is FULL
    dispatcher.stopping = True
    assert route.admit(TEXT + TOO_LARGE) is STOPPING
    dispatcher.release(slot)
    assert route.admit(KEY + IMAGE + FITS) is STOPPING


def test_the_bytes_that_have_come_are_bounded_and_one_alone_is_taken() -> None:
    with open_channel(4) as channel:
        dispatcher = Dispatcher(channel, 10.0, 1, max_body_bytes=100)
        first, second = dispatcher.slots.acquire(), dispatcher.slots.acquire()
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
        route = route_to(dispatcher, 1000)
        large = slot_of(route.admit([*IMAGE, (b"content-length", b"200")]))
        assert dispatcher.hold(large, 200)
        assert route.admit([*IMAGE, (b"content-length", b"26")]) is FULL
        small = slot_of(route.admit([*IMAGE, (b"content-length", b"25")]))
        unknown = slot_of(route.admit(IMAGE))
        assert dispatcher.hold(small, 25)
        assert dispatcher.hold(unknown, 25)
        assert not dispatcher.hold(unknown, 1)
