"""What a long run prints."""

from __future__ import annotations

import pytest

from litmeter.measure.run import progress as progress_of_a_run
from litmeter.say import progress
from litmeter.say.progress import bar, set_place


class Clock:
    """Time that goes on as a test says."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(progress, "monotonic", clock := Clock())
    return clock


@pytest.mark.parametrize(
    ("total", "before", "steps", "step_s", "lines"),
    [
        pytest.param(
            *(100, 0, 30, 1, ["load: 10%, 90 s left", "load: 20%, 80 s left", "load: 30%, 70 s left"]),
            id="a line every ten seconds",
        ),
        pytest.param(100, 50, 10, 1, ["load: 60%, 40 s left"], id="what was done before is done"),
        pytest.param(2, 0, 2, 4, [], id="nothing of what is done at once"),
        pytest.param(0, 0, 1, 11, ["load"], id="no share of an unknown whole"),
    ],
)
def test_without_a_terminal_there_are_lines(
    clock: Clock,
    capsys: pytest.CaptureFixture[str],
    total: int,
    before: int,
    steps: int,
    step_s: float,
    lines: list[str],
) -> None:
    set_place("8/18")
    try:
        with bar(total, "load", "s", before) as shown:
            for _ in range(steps):
                clock.now += step_s
                shown.update()
    finally:
        set_place("")
    assert capsys.readouterr().err.splitlines() == [f"8/18 {line}" for line in lines]


def test_what_takes_longer_than_it_may_is_not_said_to_be_done(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_of_a_run(20.0, "check") as show:
        for seconds in range(1, 61):
            clock.now += 1
            show("a round", float(seconds), 100.0 if seconds > 15 else 20.0)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("%")[0] for line in lines] == [
        f"check: {share}" for share in (50, 20, 30, 40, 50, 60)
    ]
    assert all(line.endswith("; a round") for line in lines)
