"""Slots of the requests in flight."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from litmeter.serving.direct.channel import REGISTRATION
from litmeter.serving.direct.slots import UNCLAIMED, Slots


def test_a_slot_is_claimed_until_released_and_never_after() -> None:
    slots = Slots(2, 2)
    first, second = slots.acquire(), slots.acquire()
    assert first is not None
    assert second is not None
    assert slots.acquire() is None
    assert slots.claimed_by(first) == UNCLAIMED
    assert slots.claim(first, 0, 7)
    assert slots.claimed_by(first) == 7
    slots.release(second)
    assert not slots.claim(second, 0, 7)
    third = slots.acquire()
    assert third is not None
    assert third not in (first, second, REGISTRATION)
    assert not slots.claim(second, 0, 7)
    assert slots.claim(third, 1, 8)
    assert (slots.claimed_by(first), slots.claimed_by(third)) == (7, 8)


def test_slots_in_use_are_counted() -> None:
    slots = Slots(2, 1)
    assert (slots.in_flight, slots.full) == (0, False)
    held = [slots.acquire(), slots.acquire()]
    assert (slots.in_flight, slots.full) == (2, True)
    for number, slot in enumerate(held, start=1):
        assert slot is not None
        slots.release(slot)
        assert (slots.in_flight, slots.full) == (2 - number, False)


def test_a_claim_that_a_release_overtakes_is_none_of_the_next_request() -> None:
    """The slot is released, and its place taken again, before each instruction of the claim in turn."""
    for number in range(1000):
        for other_claims in (False, True):
            slots, later = Slots(1, 2), list[int]()
            first = slots.acquire()
            assert first is not None

            def release_and_acquire(
                slots: Slots = slots, first: int = first, later: list[int] = later, also: bool = other_claims
            ) -> None:
                slots.release(first)
                second = slots.acquire()
                assert second is not None
                later.append(second)
                assert not also or slots.claim(second, 1, 8)

            before_instruction(number, release_and_acquire, lambda slots=slots, s=first: slots.claim(s, 0, 7))
            if not later:  # the claim has fewer instructions
                assert number > 10
                assert slots.claimed_by(first) == 7
                return
            assert slots.claimed_by(later[0]) == (8 if other_claims else UNCLAIMED)


def before_instruction(number: int, act: Callable[[], object], function: Callable[[], bool]) -> bool:
    """Call ``function``, and ``act`` before this instruction of ``Slots.claim``, if there are so many."""
    count = -1

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if frame.f_code is not Slots.claim.__code__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            count += 1
            if count == number:
                sys.settrace(None)
                act()
        return trace

    sys.settrace(trace)
    try:
        return function()
    finally:
        sys.settrace(None)
