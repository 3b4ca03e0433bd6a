"""Slots of the requests in flight."""

from __future__ import annotations

from litmeter.serving.direct.channel import REGISTRATION
from litmeter.serving.direct.slots import UNCLAIMED, Slots


def test_a_slot_is_claimed_until_released_and_never_after() -> None:
    slots = Slots(2)
    first, second = slots.acquire(), slots.acquire()
    assert first is not None
    assert second is not None
    assert slots.acquire() is None
    assert slots.claimed_by(first) == UNCLAIMED
    assert slots.claim(first, 7)
    assert slots.claimed_by(first) == 7
    slots.release(second)
    assert not slots.claim(second, 7)
    third = slots.acquire()
    assert third is not None
    assert third not in (first, second, REGISTRATION)
    assert not slots.claim(second, 7)
    assert slots.claim(third, 8)


def test_slots_in_use_are_counted() -> None:
    slots = Slots(2)
    assert (slots.in_flight, slots.full) == (0, False)
    held = [slots.acquire(), slots.acquire()]
    assert (slots.in_flight, slots.full) == (2, True)
    for number, slot in enumerate(held, start=1):
        assert slot is not None
        slots.release(slot)
        assert (slots.in_flight, slots.full) == (2 - number, False)
