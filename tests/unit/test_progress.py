"""What a long run prints."""

from __future__ import annotations

import pytest

from litmeter.measure.run import progress as progress_of_a_run
from litmeter.say import progress
from litmeter.say.progress import bar, set_place


class Clock:
    """Time that goes on as a test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "monotonic", clock)
    return clock


def test_without_a_terminal_there_is_a_line_every_ten_seconds(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with bar(100, "comparison", "s") as shown:
        for second in range(1, 31):
            clock.now += 1
            shown.set_postfix_str(f"round {second}")
            shown.update()
    assert capsys.readouterr().err.splitlines() == [
        "comparison: 10%, 90 s left; round 10",
        "comparison: 20%, 80 s left; round 20",
        "comparison: 30%, 70 s left; round 30",
    ]


def test_what_was_done_before_counts_as_done_and_not_for_the_time_that_is_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with bar(100, "tune", "s", 50) as shown:
        clock.now += 10
        shown.update(10)
    assert capsys.readouterr().err == "tune: 60%, 40 s left\n"


def test_what_is_done_at_once_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with bar(2, "checking photos", "photo") as shown:
        for _ in range(2):
            clock.now += 4
            shown.update()
    assert capsys.readouterr().err == ""


def test_the_place_in_the_run_is_said(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    set_place("8/18")
    try:
        with bar(0, "load", "answer") as shown:
            clock.now += 11
            shown.update()
    finally:
        set_place("")
    assert capsys.readouterr().err == "8/18 load\n"


def test_what_takes_longer_than_it_may_is_not_said_to_be_done(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_of_a_run(20.0, "check") as show:
        for seconds in range(1, 61):
            clock.now += 1
            show("a round", float(seconds), 100.0 if seconds > 15 else 20.0)
    shares = [line.partition("%")[0] for line in capsys.readouterr().err.splitlines()]
    assert shares == ["check: 50", *(f"check: {share}" for share in (20, 30, 40, 50, 60))]
