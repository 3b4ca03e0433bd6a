"""The log of turns: what was measured is repeated, decision by decision, and comes back as it was."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from litmeter.errors import StorageError
from litmeter.measure.log import Log, unfinished_log
from litmeter.measure.rows import TurnRow
from litmeter.measure.run import run
from litmeter.measure.turn import (
    LeftOut,
    MakeReady,
    Ready,
    Sample,
    Schedule,
    Turn,
    Work,
    attempt,
    in_process,
    make_ready,
    measure,
)
from litmeter.stats.records import Limits
from litmeter.system.files import read_rows
from tests.support.load import plan
from tests.support.turns import Machine, drive

TURNS = 7


def wandering(users: int = 4) -> Schedule[list[str]]:
    """Goes on with one or the other, by the last digits of what it has measured."""
    yield from make_ready(["a", "b"])
    path, name = list[str](), "a"
    for number in range(TURNS):
        sample = yield from measure(Turn(name, plan(users, requests=number + 1), number, Limits(50.0)))
        assert sample.record is not None
        path.append(f"{name} {sample.ended_s} {sample.row.p50_ms}")
        name = "ab"[int(np.float64(sample.record.end.sum()).view(np.int64)) % 2]
    work = yield from measure(Turn(in_process(name), Work("pipeline", 4, 0.1)))
    yield from make_ready(["b"])
    return [*path, f"{work.row.rate_rps}"]


class Interrupted(Machine):
    """A machine on which Ctrl-C is pressed after some answers; its rates vary from turn to turn."""

    def __init__(self, after: int = 99) -> None:
        super().__init__(lambda turn: 20.0 + np.pi * turn.round**2)
        self.after = after

    def __call__(self, asked: Turn | MakeReady, number: int) -> Sample | Ready:
        """The next answer."""
        if len(self.asked) == self.after:
            raise KeyboardInterrupt
        self.now_s = 10.0 * number  # the same for a machine that goes on
        return super().__call__(asked, number)


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def driven(log: Log, users: int = 4) -> tuple[list[str], Machine]:
    """What a run gives that goes on with a log, and the machine that it asked."""
    machine = Interrupted()
    return drive(wandering(users), machine, log), machine


def stopped(after: int) -> Path:
    """The unfinished log of a run that was stopped, or stopped again."""
    log = unfinished_log("stage", "key")
    with pytest.raises(KeyboardInterrupt):
        drive(wandering(), Interrupted(after), log)
    assert log.path is not None
    return log.path


@pytest.mark.parametrize("after", range(1, TURNS + 3))
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(after: int) -> None:
    result, uninterrupted = driven(whole := Log())
    assert {step[0] for step in result[:-1]} == {"a", "b"}  # decisions depend on what is measured
    stopped(after)
    again, machine = driven(log := unfinished_log("stage", "key"))
    assert again == result
    assert machine.asked == uninterrupted.asked[after:]
    assert (log.rows, log.reached_s) == (whole.rows, whole.reached_s)
    latencies_ms = log.latencies_ms()
    assert list(latencies_ms) == list(range(TURNS))
    for turn, expected in whole.latencies_ms().items():
        assert latencies_ms[turn].tolist() == expected.tolist()
        assert len(expected) == whole.rows[turn].answers > 0


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_a_line_that_was_not_written_whole_is_measured_again(cut: int) -> None:
    """And the one after it stands in a line of its own."""
    path = stopped(4)
    path.write_bytes(path.read_bytes()[:-cut])
    stopped(3)  # after turns 2, 3 and 4
    result, machine = driven(unfinished_log("stage", "key"))
    assert [turn.round for turn in machine.turns] == [5, 6, 0]
    assert result == driven(Log())[0]


def test_another_key_begins_anew_and_what_is_done_is_removed() -> None:
    path = stopped(4)
    other = unfinished_log("another", "key")
    other.add(MakeReady(()), Interrupted()(MakeReady(()), 0))
    _, machine = driven(log := unfinished_log("stage", "other"))
    assert len(machine.turns) == TURNS + 1
    log.remove_unfinished()
    assert list(path.parent.iterdir()) == [other.path]


def test_what_was_left_out_is_left_out_again() -> None:
    """And why, by its subject; a turn that alone was left out says nothing of the subject."""

    def schedule() -> Schedule[list[str]]:
        turns = [Turn(in_process(name), Work("pipeline", 1, 0.1)) for name in "ab"]
        answers = [(yield from attempt(turns[0])), (yield from attempt(turns[1]))]
        return [answer.reason for answer in answers if isinstance(answer, LeftOut)]

    class Failing(Machine):
        def __call__(self, asked: Turn | MakeReady, number: int) -> LeftOut:
            assert isinstance(asked, Turn)
            self.asked.append(asked)
            return LeftOut(asked.subject, f"no {asked.subject}", 7.0, takes_others=asked.subject[0] == "b")

    machine = Failing(lambda turn: 1.0)
    result = drive(schedule(), machine, log := unfinished_log("stage", "key"))
    again = unfinished_log("stage", "key")
    assert drive(schedule(), machine, again) == result == ["no a in-process", "no b in-process"]
    assert len(machine.asked) == 2
    assert again.left_out == log.left_out == {"a in-process": "no a in-process"}
    assert again.reached_s == 7.0


def test_where_something_else_is_asked_the_rest_is_dropped() -> None:
    path = stopped(5)
    for turns in (TURNS + 1, 0):
        assert len(driven(unfinished_log("stage", "key"), users=5)[1].turns) == turns
    assert len(path.read_text().splitlines()) == TURNS + 3


def test_a_file_of_something_else_is_named() -> None:
    path = stopped(3)
    path.write_text("<<<<<<< HEAD\n")
    with pytest.raises(StorageError, match=str(path)):
        unfinished_log("stage", "key")


def test_the_tables_have_each_turn_and_each_request(tmp_path: Path) -> None:
    driven(log := Log())
    log.write(table := tmp_path / "turns.csv", samples := tmp_path / "samples.csv")
    assert read_rows(table, TurnRow) == log.rows
    with samples.open() as file:
        requests = list(csv.DictReader(file))
    assert len(requests) == sum(row.sent for row in log.rows)
    assert {one["status"] for one in requests} == {"ok"}
    latencies_ms = log.latencies_ms()
    for row in log.rows[:TURNS]:
        own = [one for one in requests if int(one["turn"]) == row.turn]
        assert len(own) == row.sent
        measured = [float(one["latency_ms"]) for one in own if one["measured"] == "True"]
        assert measured == pytest.approx(latencies_ms[row.turn], abs=1e-3)


def test_what_a_command_has_spent_before_counts_from_the_logs_begin(tmp_path: Path) -> None:
    def reached(spent_s: float) -> float:
        def schedule() -> Schedule[float]:
            return (yield from make_ready([])).at_s

        return run(schedule(), {}, Log(tmp_path / "log"), 100.0, lambda *_: None, spent_s=spent_s)

    spent = reached(40.0)
    assert spent >= 40
    assert reached(90.0) == spent  # a command that goes on does not add what it took to get there again
