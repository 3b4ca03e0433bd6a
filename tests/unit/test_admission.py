"""What becomes of a request when its head has come."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from litmeter.params import ServeSettings
from litmeter.serve.direct.dispatcher import MIB, STOPPING, Dispatcher
from litmeter.serve.direct.http import FULL
from litmeter.serve.messages import Reply
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
        yield Dispatcher(channel, ServeSettings(), 10.0)


def status(decision: tuple[int, bytes] | Reply) -> int:
    assert isinstance(decision, Reply)
    return decision.status


def slot_of(decision: tuple[int, bytes] | Reply) -> int:
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


LIMITED = ServeSettings(max_queue_mib=1)
PART = MIB // 4
"""Of each of four slots."""


def test_the_bytes_that_have_come_are_bounded() -> None:
    with open_channel(4) as channel:
        dispatcher = Dispatcher(channel, LIMITED, 10.0)
        first, second = dispatcher.slots.acquire(), dispatcher.slots.acquire()
        assert first is not None
        assert second is not None
        assert dispatcher.hold(first, MIB - 2 * PART)
        assert dispatcher.has_room(2 * PART)
        assert dispatcher.hold(second, 2 * PART)
        assert not dispatcher.has_room(2 * PART)
        assert not dispatcher.hold(second, 1)
        dispatcher.release(second)
        assert dispatcher.has_room(2 * PART)


def test_large_bodies_keep_no_small_one_out() -> None:
    with open_channel(4) as channel:
        dispatcher = Dispatcher(channel, LIMITED, 10.0)
        route = route_to(dispatcher, MIB)
        large = slot_of(route.admit([*IMAGE, (b"content-length", b"%d" % MIB)]))
        assert dispatcher.hold(large, MIB)
        assert route.admit([*IMAGE, (b"content-length", b"%d" % (PART + 1))]) is FULL
        small = slot_of(route.admit([*IMAGE, (b"content-length", b"%d" % PART)]))
        unknown = slot_of(route.admit(IMAGE))
        assert dispatcher.hold(small, PART)
        assert dispatcher.hold(unknown, PART)
        assert not dispatcher.hold(unknown, 1)
