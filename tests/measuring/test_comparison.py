"""Real servers, stopped while they wait and loaded in turn."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from servebench.benchmark.comparison import PausedServer, compare, paused_servers
from servebench.benchmark.turns import Comparison, Turn
from servebench.errors import ServerError
from servebench.loadgen import load_generator
from servebench.params import ComparisonSettings, LoadSettings, ServeSettings
from servebench.paths import ModelFolders
from servebench.serving.client import request_bodies
from tests.support.processes import processes_mentioning

USERS = 4
STOCK = ServeSettings(threads_per_worker=1)
DIRECT = ServeSettings(threads_per_worker=1, transport="direct", max_batch_size=4, preprocess="torchvision")
CONFIGURATIONS = {"stock": STOCK, "direct": DIRECT, "twin": DIRECT}
LOAD = LoadSettings(
    users=(USERS,),
    requests=10,
    min_s=0.5,
    max_s=0.5,
    warmup_s=0.1,
    timeout_s=30.0,
    request_body="image",
    seed=1,
)


@pytest.fixture
def bodies(photos: list[Path]) -> list[bytes]:
    return request_bodies(photos, "image")


@pytest.fixture(autouse=True)
def _no_process_is_left(exported: ModelFolders) -> Iterator[None]:
    yield
    assert processes_mentioning(str(exported.exported)) == []


def statuses(server: PausedServer) -> set[str]:
    main = psutil.Process(server.pid)
    return {process.status() for process in (main, *main.children(recursive=True))}


def soon_stopped(server: PausedServer) -> bool:
    deadline = time.monotonic() + 5
    while statuses(server) != {psutil.STATUS_STOPPED}:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_servers_run_in_their_turn_only(exported: ModelFolders, bodies: list[bytes]) -> None:
    with (
        paused_servers(["stock", "direct"], CONFIGURATIONS, exported, "cpu", 30.0) as servers,
        load_generator(bodies, "image/jpeg") as generator,
    ):
        assert [server.name for server in servers] == ["stock", "direct"]
        for _ in range(2):
            for server in servers:
                assert all(soon_stopped(one) for one in servers)
                turn = server.take_turn(generator, LOAD, 0, USERS, 0.5)
                assert turn.rate_rps is not None
                assert turn.rate_rps > 0
                assert len(turn.latency_ms) >= 3 * USERS
                # A request that had been stopped on its way would have waited for the other's turn.
                assert turn.latency_ms.max() < 5000


def test_all_are_compared_in_rounds_of_alternating_order(exported: ModelFolders, bodies: list[bytes]) -> None:
    settings = ComparisonSettings(reference="stock", users=(USERS,), seconds=1.0)
    comparison = compare(CONFIGURATIONS, exported, "cpu", bodies, LOAD, settings, budget_s=1.0)
    ranked = [turn for turn in comparison.turns if turn.users == USERS]
    first, second, _ = ([turn.name for turn in ranked if turn.round == number] for number in (0, 1, 2))
    assert sorted(first) == sorted(CONFIGURATIONS)
    assert second == first[::-1]
    assert {turn.round for turn in ranked} == {0, 1, 2}  # however small the budget
    rates = comparison.rates(USERS)
    assert set(rates) == set(CONFIGURATIONS)
    assert all(rate is not None and rate > 0 for own in rates.values() for rate in own)


def test_servers_that_do_not_fit_wait_for_the_next_group(exported: ModelFolders) -> None:
    """Two are started anyway: the reference, and another to compare with it."""
    with paused_servers(
        list(CONFIGURATIONS), CONFIGURATIONS, exported, "cpu", 30.0, free_bytes=lambda: 2**20
    ) as servers:
        assert [server.name for server in servers] == ["stock", "direct"]


def test_a_server_that_dies_while_it_waits_is_an_error(exported: ModelFolders, bodies: list[bytes]) -> None:
    with (
        paused_servers(["direct"], CONFIGURATIONS, exported, "cpu", 30.0) as (server,),
        load_generator(bodies, "image/jpeg") as generator,
    ):
        psutil.Process(server.pid).kill()
        psutil.Process(server.pid).wait(10)
        with pytest.raises(ServerError, match="direct: the server died"):
            server.take_turn(generator, LOAD, 0, USERS, 0.5)


def turns_of(rates: dict[str, list[float | None]]) -> list[Turn]:
    return [
        Turn(number, USERS, name, rate, np.array([1.0]))
        for name, own in rates.items()
        for number, rate in enumerate(own)
    ]


def test_the_slow_leave_and_the_reference_stays() -> None:
    noise = [1.0, 1.01, 0.99, 1.0] * 4
    means = {"reference": 16.0, "fast": 100.0, "near": 90.0, "slow": 20.0, "beside the reference": 14.0}
    rates: dict[str, list[float | None]] = {
        **{name: [mean * own for own in noise] for name, mean in means.items()},
        "crawling": [7.0, 6.0, 7.0, 1.0] * 4,
        "silent": [None] * 16,
    }
    far = {"crawling", "silent"}
    below_half = {"slow", "beside the reference", *far}
    for rounds, gone in ((1, {"silent"}), (2, far), (15, far), (16, below_half)):
        first = {name: by_round[:rounds] for name, by_round in rates.items()}
        comparison = Comparison("reference", list(rates), turns_of(first))
        comparison.drop_slow([USERS])
        assert comparison.dropped == dict.fromkeys(gone, rounds)
        assert comparison.remaining == [name for name in rates if name not in gone]


def test_the_slow_stay_while_their_own_ratio_is_not_known_well() -> None:
    rates: dict[str, list[float | None]] = {
        "reference": [16.0, 16.1] * 8,
        "fast": [100.0, 101.0] * 8,
        "wobbling": [20.0, 11.0] * 8,
    }
    comparison = Comparison("reference", list(rates), turns_of(rates))
    comparison.drop_slow([USERS])
    assert comparison.dropped == {}


def test_those_of_the_next_group_do_not_leave_unmeasured() -> None:
    rates: dict[str, list[float | None]] = {
        "reference": [10.0, 10.1, 9.9, 10.0],
        "fast": [100.0, 101.0, 99.0, 100.0],
    }
    comparison = Comparison("reference", [*rates, "waiting"], turns_of(rates))
    comparison.drop_slow([USERS])
    assert comparison.remaining == ["reference", "fast", "waiting"]


def test_who_is_slow_at_one_load_alone_stays() -> None:
    means = {"reference": 10.0, "fast": 100.0, "slow at few": 90.0, "slow at both": 1.0}
    at_few = turns_of({name: [mean] * 3 for name, mean in (means | {"slow at few": 1.0}).items()})
    at_many = [
        Turn(number, 8 * USERS, name, mean, np.array([1.0]))
        for name, mean in means.items()
        for number in range(3)
    ]
    comparison = Comparison("reference", list(means), at_few + at_many)
    comparison.drop_slow([USERS, 8 * USERS])
    assert comparison.dropped == {"slow at both": 3}


def test_who_answers_only_where_the_reference_does_not_leaves() -> None:
    rates: dict[str, list[float | None]] = {"reference": [10.0, None], "other": [None, 20.0]}
    comparison = Comparison("reference", list(rates), turns_of(rates))
    comparison.drop_slow([USERS])
    assert comparison.dropped == {"other": 2}


def test_nobody_leaves_where_nobody_answers() -> None:
    rates: dict[str, list[float | None]] = {"reference": [None] * 4, "other": [None] * 4}
    comparison = Comparison("reference", list(rates), turns_of(rates))
    comparison.drop_slow([USERS])
    assert comparison.dropped == {}
