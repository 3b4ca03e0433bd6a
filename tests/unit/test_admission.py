"""What becomes of a request when its head has come."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from litmeter.direct.dispatcher import STOPPING, Dispatcher
from litmeter.direct.http import FULL
from litmeter.direct.messages import Reply
from litmeter.direct.middleware import UNAUTHORISED
from litmeter.kinds.classifier import Classifier
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
        yield Dispatcher(channel, Classifier(), 10.0)


def status(decision: tuple[int, bytes] | Reply) -> int:
    assert isinstance(decision, Reply)
    return decision.status


def test_stopping_comes_before_full_key_type_and_size(dispatcher: Dispatcher) -> None:
    """One reason is added after another; each hides those that were there before."""
    route = route_to(dispatcher, 10, "open-sesame")
    assert status(route.admit(KEY + IMAGE + TOO_LARGE)) == 413
    assert status(route.admit(KEY + TEXT + TOO_LARGE)) == 415
    assert route.admit(TEXT + TOO_LARGE) is UNAUTHORISED
    slot = dispatcher.slots.acquire()
    assert route.admit(TEXT + TOO_LARGE) is FULL
    assert route.admit(KEY + IMAGE + FITS) is FULL
    dispatcher.stopping = True
    assert route.admit(TEXT + TOO_LARGE) is STOPPING
    dispatcher.release(slot)
    assert route.admit(KEY + IMAGE + FITS) is STOPPING


def test_large_bodies_keep_no_small_one_out() -> None:
    """What is only announced does not count: clients that send nothing would keep others out."""
    with open_channel(4) as channel:
        settings = Classifier(max_queue=4, max_queue_mib=1)
        route = route_to(Dispatcher(channel, settings, 10.0), 2**20, settings=settings)
        large, small = ([*IMAGE, (b"content-length", b"%d" % size)] for size in (2**18 + 1, 2**18))
        for _ in range(2):
            assert not isinstance(route.admit(large), Reply)
        route.held_bytes = 2**20
        assert route.admit(large) is FULL
        assert not isinstance(route.admit(small), Reply)
        assert not isinstance(route.admit(IMAGE), Reply)
