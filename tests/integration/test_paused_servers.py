"""Real servers, stopped while they wait and loaded in turn."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from litmeter.errors import ServerError
from litmeter.load import load_generator
from litmeter.measure.comparison import Memory, PausedServer, compare, paused_servers
from litmeter.params import ComparisonSettings, ServeSettings
from litmeter.paths import ModelFolders
from litmeter.serve.client import request_bodies
from tests.integration.asking import wait_for
from tests.support.load import short_load
from tests.support.processes import processes_mentioning

USERS = 4
STOCK = ServeSettings(threads_per_worker=1)
DIRECT = ServeSettings(threads_per_worker=1, transport="direct", max_batch_size=4, preprocess="torchvision")
PAIR = {"stock": STOCK, "direct": DIRECT}
TRIPLETS = {"one": DIRECT, "two": DIRECT, "three": DIRECT}
LOAD = short_load(USERS)


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


def test_servers_run_in_their_turn_only(exported: ModelFolders, bodies: list[bytes]) -> None:
    """And one that dies while it waits is an error."""
    with (
        paused_servers(list(PAIR), PAIR, exported, "cpu", 30.0) as servers,
        load_generator(bodies, "image/jpeg") as generator,
    ):
        assert [server.name for server in servers] == ["stock", "direct"]
        for _ in range(2):
            for server in servers:
                wait_for(lambda: set.union(*map(statuses, servers)) == {psutil.STATUS_STOPPED}, 5)
                time.sleep(2.0)
                turn = server.take_turn(generator, LOAD, 0, USERS, 0.5)
                assert turn.rate_rps is not None
                assert turn.rate_rps > 0
                assert len(turn.latency_ms) >= 3 * USERS
                # A request that had been stopped on its way would have waited through both turns.
                assert turn.latency_ms.max() < 4000
        psutil.Process(servers[1].pid).kill()
        psutil.Process(servers[1].pid).wait(60)
        with pytest.raises(ServerError, match="direct: the server died"):
            servers[1].take_turn(generator, LOAD, 0, USERS, 0.5)


def test_rounds_have_alternating_orders_and_groups_share_the_reference(
    exported: ModelFolders,
    bodies: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without memory for all, two are started anyway: the reference, and another to compare with it."""
    without_memory = partial(paused_servers, free_bytes=lambda: 2**20)
    monkeypatch.setattr("litmeter.measure.comparison.paused_servers", without_memory)
    settings = ComparisonSettings(reference="one", users=(USERS,), seconds=1.0)
    comparison = compare(TRIPLETS, exported, "cpu", bodies, LOAD, settings, budget_s=1.0)
    ranked = [turn for turn in comparison.turns if turn.users == USERS]
    orders = [[turn.name for turn in ranked if turn.round == number] for number in range(7)]
    # Three rounds of each group, however small the budget.
    assert [set(order) for order in orders] == [{"one", "two"}] * 3 + [{"one", "three"}] * 3 + [set()]
    assert orders[1] == orders[0][::-1]
    assert orders[4] == orders[3][::-1]
    assert all(turn.rate_rps is not None and turn.rate_rps > 0 for turn in ranked)
    assert set(comparison.rates(USERS)) == set(TRIPLETS)
    assert "in groups, for want of memory: one, two" in capsys.readouterr().out


def test_memory_has_room_for_a_fifth_more_than_workers_take_now() -> None:
    memory = Memory(lambda: 300)
    assert memory.fits(new=8, ready=8)  # nothing is known yet
    memory.worker_bytes = 100.0
    assert memory.fits(new=2, ready=2)  # 240 for the new ones, 40 for those that still grow
    assert not memory.fits(new=2, ready=4)
