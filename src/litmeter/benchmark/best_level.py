"""Which level is the best, and the run that it is reported from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from litmeter.benchmark.levels import did_not_fail, fastest_first, measured_again
from litmeter.benchmark.rows import LevelRow
from litmeter.system.progress import print_wrapped

if TYPE_CHECKING:
    from litmeter.benchmark.served import LevelResult, LoadSession

REPORTED_RUNS = 2
"""Of the chosen level, at most: the first of them that is valid is reported, so that a moment's change of the
machine's speed makes no other level the best one."""
REPEATED_FROM = 0.8
"""Of the rate of the level that the first runs alone would choose: a level below that is not the best one,
whether others are valid or not. Those above are run twice before one is chosen, where there is time."""


def run_once(
    session: LoadSession, users: Sequence[int], between: Callable[[], None]
) -> dict[int, LevelResult]:
    """Run the level of each number of users.

    Args:
        between: called after the first level, and after each other one unless the time is up; ``run_again``
            calls it in any case.
    """
    levels: dict[int, LevelResult] = {}
    for number in users:
        levels[number] = session.run(number, 0)
        if len(levels) == 1 or session.has_time(0.0):
            between()
    return levels


def run_again(
    session: LoadSession, first: Mapping[int, LevelResult], between: Callable[[], None]
) -> tuple[dict[int, LevelResult], LevelRow | None]:
    """Choose the best level, and report it from a run that had no part in the choice.

    Where several levels are near the fastest, and there is time, all of them run a second time, in the
    reverse order, and the mean of both runs chooses: a steady drift cancels.

    Args:
        session: of which ``until`` says how long there is time.
        first: of each level, in the order in which they ran.
        between: called after the second runs and after the last ones.

    Returns:
        The levels that ran again, from their last runs, and the best one, None where requests failed at all.
        Where requests fail only as they are run again, others are run again as well: the next fastest first.
    """
    levels: dict[int, LevelResult] = {}
    rows = fastest_first([level.row for level in first.values()])
    others = [row for row in rows if row.throughput_rps < REPEATED_FROM * rows[0].throughput_rps]
    close = [row for row in rows if row.throughput_rps >= REPEATED_FROM * rows[0].throughput_rps]
    run = 1
    has_time = session.has_time(sum(first[row.users].seconds for row in [*close, *close[:1]]))
    if len(close) > 1 and not has_time:
        print_wrapped(
            f"{session.name}: no time left to run the levels near the fastest again before one is chosen"
        )
    elif len(close) > 1:
        row_of = {row.users: row for row in close}
        for users in reversed([users for users in first if users in row_of]):
            level = session.run(users, run)
            levels[users] = replace(level, row=measured_again(row_of[users], level.row))
        close = fastest_first([mean_of_runs(row, levels[row.users].row) for row in close])
        run += 1
        between()
    again: dict[int, LevelResult] = {}
    best = None
    for choices in [close, *([row] for row in others)]:
        again |= run_best_again(session, choices, run)
        best = best_of([level.row for level in again.values()])
        if best is not None:
            break
    between()
    return levels | again, best


def mean_of_runs(first: LevelRow, second: LevelRow) -> LevelRow:
    """The second run's row with the mean rate of both."""
    return replace(second, throughput_rps=(first.throughput_rps + second.throughput_rps) / 2)


def run_best_again(session: LoadSession, rows: Sequence[LevelRow], run: int) -> dict[int, LevelResult]:
    """Run the first level of ``rows`` until a run is valid, else the next one, as long as there is time.

    Args:
        rows: the fastest first.
        run: number of the first of these runs.
    """
    again: dict[int, LevelResult] = {}
    run_s = 0.0
    for row in rows:
        for number in range(run, run + REPORTED_RUNS):
            if again and not session.has_time(run_s):
                return again
            level = session.run(row.users, number)
            run_s = level.seconds
            again[row.users] = replace(level, row=measured_again(row, level.row))
            if level.row.valid:
                return again
    return again


def best_of(rows: Sequence[LevelRow]) -> LevelRow | None:
    """Of levels that were run again, in the order in which they were: the first valid one, or else the first.

    Other runs chose it: the highest of several noisy rates overestimates its level's (selection bias).
    """
    unfailing = [row for row in rows if did_not_fail(row)]
    return next((row for row in unfailing if row.valid), next(iter(unfailing), None))
