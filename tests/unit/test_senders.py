"""What a load sends, and when: bodies, arrivals, heads of requests, and how several senders share these."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from litmeter.errors import LoadError
from litmeter.load import LoadPlan
from litmeter.load.bodies import Bodies, read_bodies
from litmeter.load.process import due_times, post_head
from litmeter.load.senders import Member, SenderGroup, clock_difference, merged, on_this_clock, shares_of
from litmeter.measure.loadtest import bodies_to_send
from litmeter.stats.records import LoadRecord
from tests.support.load import plan, record

CLOSED, OPEN = plan(8), plan(8, rate_rps=300.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of two bodies, and JSON lines beside it."""
    (tmp_path / "lines.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n')
    (made := tmp_path / "bodies").mkdir()
    for name, content in {"2.json": "two", "1.json": "one", ".hidden": "none"}.items():
        (made / name).write_text(content)
    return made


def test_lines_files_and_folders_are_bodies_in_order(folder: Path, tmp_path: Path) -> None:
    lines, json = [b'{"a": 1}', b'{"a": 2}'], "application/json"
    assert read_bodies(tmp_path / "lines.jsonl") == Bodies(lines, json)
    assert read_bodies(folder) == Bodies([b"one", b"two"], json)
    assert read_bodies(folder / "2.json", "text/x") == Bodies([b"two"], "text/x")
    given = [folder, tmp_path / "lines.jsonl", folder / "1.json"]
    assert bodies_to_send(given, [], json, None) == [b"one", b"two", *lines, b"one"]


def test_what_is_no_body_is_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (folder / "3.png").write_bytes(b"three")
    for path, message in {
        tmp_path / "nonsuch": "No such file",
        tmp_path / "empty.jsonl": "no request body",
        folder: r"application/json, image/png",
    }.items():
        with pytest.raises(LoadError, match=message):
            read_bodies(path)
    assert len(read_bodies(folder, "text/x").contents) == 3


def first(load: LoadPlan, number: int, senders: int = 1) -> list[float]:
    """The first due times of all senders together."""
    shares = [share for share in shares_of(load, senders) if share]
    return sorted(due for share in shares for due in itertools.islice(due_times(share), number // senders))


@pytest.mark.parametrize("senders", [1, 3])
@pytest.mark.parametrize("burstiness", [0.1, 0.5, 1.0, 4.0, math.inf])
def test_gaps_vary_as_the_burstiness_says(burstiness: float, senders: int) -> None:
    """The gamma distribution of shape k has the coefficient of variation 1 / sqrt(k)."""
    gaps = np.diff(first(replace(OPEN, burstiness=burstiness), 39_999, senders))
    assert gaps.mean() == pytest.approx(1 / 300, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(1 / math.sqrt(burstiness), rel=0.05, abs=1e-6)


def test_without_burstiness_gaps_are_exponential() -> None:
    gaps = np.sort(np.diff(first(OPEN, 10_000)))
    shares = 1 - np.exp(-300 * gaps)
    assert np.abs(shares - np.linspace(0, 1, len(gaps))).max() < 0.02


def test_each_load_has_random_numbers_of_its_own_and_the_same_from_run_to_run() -> None:
    changes: list[dict[str, float]] = [
        {"users": 64},
        *({"rate_rps": rate} for rate in (100.0, 200.0)),
        {"repeat": 1},
        {"seed": 2},
    ]
    loads = [OPEN, *(replace(OPEN, **change) for change in changes)]  # type: ignore[arg-type]
    assert len({load.random_seed for load in [CLOSED, *loads]}) == len(loads) + 1
    assert len({first(load, 1)[0] for load in loads}) == len(loads)
    assert first(OPEN, 9) == first(replace(OPEN, max_s=9.0), 9)


def test_a_trace_is_shared_request_by_request() -> None:
    due_s = (0.2, 0.3, 0.9, 1.4)
    trace = replace(OPEN, due_s=due_s)
    shares = [list(due_times(share)) for share in shares_of(trace, 6) if share]
    assert shares == [[0.2], [0.3], [0.9], [1.4], [], []]
    assert first(trace, 4, senders=2) == list(due_s)


def test_a_header_of_ones_own_replaces_the_same_one_in_other_letters() -> None:
    head = post_head("http://10.0.0.7/", {"host": "cats.example"}, 0)
    assert head.lower().count(b"host:") == 1
    assert b"cats.example" in head


def test_users_and_rates_are_shared_and_a_sender_without_any_users_has_no_part() -> None:
    assert [share and share.users for share in shares_of(CLOSED, 3)] == [3, 3, 2]
    assert [share and share.users for share in shares_of(replace(CLOSED, users=2), 3)] == [1, 1, None]
    shares = [share for share in shares_of(OPEN, 3) if share]
    assert [(one.rate_rps, one.users, one.sender) for one in shares] == [(100.0, 3, k) for k in range(3)]
    shares = [share for share in shares_of(replace(CLOSED, users=9), 2) if share]
    assert len({share.random_seed for share in shares}) == 1  # all have parts of one order of bodies


def ended(end: list[float], users: int = 1, cores: float = 0.1) -> LoadRecord:
    """Good requests that take a second each."""
    return replace(record(np.array(end) - 1.0, end, users=users), cores=cores)


def test_records_come_together_with_every_request_once() -> None:
    together = merged([ended([1.5, 3.5], users=2), ended([2.5, 4.5, 5.5], cores=0.7)], CLOSED)
    assert together.users == 3
    assert together.end.tolist() == [1.5, 2.5, 3.5, 4.5, 5.5]
    assert together.user.tolist() == [0, 2, 1, 2, 2]
    assert together.cores == 0.7
    assert together.window == (1.0, 4.0)


def test_times_are_those_of_this_machines_clock() -> None:
    ahead = ended([101.5, 103.5])
    here = on_this_clock(replace(ahead, window_edges=ahead.window_edges + 100), clock_s=100.0)
    assert here.end == pytest.approx([1.5, 3.5])
    assert here.start == pytest.approx([0.5, 2.5])
    assert here.window == pytest.approx((1.0, 4.0))


def test_the_difference_of_clocks_is_that_of_the_fastest_answer() -> None:
    delays = iter([0.03, 0.0, 0.02, 0.0, 0.01] * 4)  # a busy machine delays some more

    def ask() -> float:
        theirs = time.perf_counter() + 5.0
        time.sleep(next(delays))  # the way back takes longer than the way there
        return theirs

    difference_s, error_s = clock_difference(ask)
    assert abs(difference_s - 5.0) <= error_s < 0.01


class FakeSender:
    """Returns a record after a while; or is gone."""

    def __init__(self, outcome: LoadRecord | None) -> None:
        self.outcome, self.plans = outcome, list[LoadPlan]()

    def wait_until_ready(self) -> None:
        if self.outcome is None:
            raise LoadError("gone")

    def run(self, url: str, plan: LoadPlan, *, on_progress: Callable[[float], None]) -> LoadRecord:
        self.plans.append(plan)
        on_progress(0.5)
        time.sleep(0.2)
        assert self.outcome
        return self.outcome


def test_all_begin_at_the_same_time_each_on_its_own_clock() -> None:
    senders = [FakeSender(ended([1.5])), FakeSender(ended([7.5]))]
    group = SenderGroup([Member("here", senders[0]), Member("there", senders[1], clock_s=5.0)])
    before = time.perf_counter()
    together = group.run("http://x", CLOSED)
    begins = [sender.plans[0].begin_at or 0.0 for sender in senders]
    assert begins[1] - begins[0] == pytest.approx(5.0)
    assert begins[0] > before
    assert together.end == pytest.approx([1.5, 2.5])


def test_a_sender_that_cannot_get_ready_is_named() -> None:
    group = SenderGroup([Member("1", FakeSender(ended([1.5]))), Member("2", FakeSender(None))])
    with pytest.raises(LoadError, match="sender 2: gone"):
        group.run("http://x", CLOSED)
