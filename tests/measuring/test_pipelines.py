"""The pipelines in-process of a comparison: real processes, shared by those that run the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import psutil
import pytest

from litmeter.errors import LitmeterError
from litmeter.measure.comparison import (
    PIPELINE_KEYS,
    PausedServer,
    RoundRunner,
    compare,
    paused_servers,
    running_pipelines,
)
from litmeter.measure.inprocess import InProcessBaseline, Pipelines
from litmeter.params import BaselineSettings, ComparisonSettings, ServeSettings
from litmeter.paths import ModelFolders
from litmeter.serve.client import request_bodies
from tests.support.load import short_load
from tests.support.processes import descendants_mentioning

HOST = "litmeter.measure.inprocess_workers"
USERS = 8
STOCK = ServeSettings(threads_per_worker=1, transport="direct")
CONFIGURATIONS = {
    "stock": STOCK,
    "batching": STOCK.model_copy(update={"max_batch_size": 4}),
    "other": STOCK.model_copy(update={"max_batch_size": 4, "preprocess": "torchvision"}),
}
Start = Callable[[list[PausedServer], list[PausedServer], list[int]], AbstractContextManager[Pipelines]]
WITHOUT_PIPELINE = {
    *("max_batch_size", "batch_timeout_s", "transport", "max_queue", "max_queue_mib"),
    *("worker_timeout_s", "drain_s"),
}
SETTINGS = BaselineSettings(batch_sizes=(1, 2, 8), seconds=0.1)


@pytest.fixture
def start(exported: ModelFolders, photos: list[Path]) -> Start:
    """``running_pipelines`` of CONFIGURATIONS."""
    return partial(
        running_pipelines,
        configurations=CONFIGURATIONS,
        folders=exported,
        device="cpu",
        photos=photos,
        settings=SETTINGS,
    )


@pytest.fixture(scope="module")
def servers(exported: ModelFolders) -> Iterator[list[PausedServer]]:
    with paused_servers(list(CONFIGURATIONS), CONFIGURATIONS, exported, "cpu", 30.0) as running:
        yield running


def started(pid: int) -> tuple[float, int]:
    """When a process was started; of two in the same moment, the lower number was first."""
    return psutil.Process(pid).create_time(), pid


def test_every_key_belongs_to_the_pipeline_or_does_not() -> None:
    assert PIPELINE_KEYS.isdisjoint(WITHOUT_PIPELINE)
    assert set(ServeSettings.model_fields) == PIPELINE_KEYS | WITHOUT_PIPELINE


def test_each_pipeline_is_measured_at_a_batch_size_that_its_users_can_form(
    start: Start,
    servers: list[PausedServer],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And one that fails is dropped, while the others go on."""
    sizes = list[int]()
    run = InProcessBaseline.run

    def watched(
        self: InProcessBaseline, work: str, batch_size: int, seconds: float, busy: int
    ) -> tuple[list[float], float]:
        sizes.append(batch_size)
        return run(self, work, batch_size, seconds, busy)

    with start(servers, servers, [1, USERS]) as pipelines:
        assert pipelines.names == set(CONFIGURATIONS)
        hosts = descendants_mentioning(HOST)
        monkeypatch.setattr(InProcessBaseline, "run", watched)
        assert pipelines.rate_rps("stock", USERS) > 0
        assert pipelines.rate_rps("batching", 1) > 0
        assert sizes == [1, 1]
        assert pipelines.rate_rps("batching", USERS) > 0
        assert sizes[2:] in ([1], [2])
        assert pipelines.rate_rps("nobody", USERS) is None
        assert len(hosts) == 2 * 2  # two pipelines, and a worker of each
        psutil.Process(min(hosts, key=started)).kill()
        assert pipelines.rate_rps("stock", USERS) is None
        assert pipelines.names == {"other"}
        assert pipelines.rate_rps("batching", USERS) is None
        assert pipelines.rate_rps("other", USERS) > 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("no in-process rates of stock, batching in the rounds:") == 1
    assert descendants_mentioning(HOST) == []


def test_a_pipeline_that_cannot_be_started_costs_no_served_rate(
    start: Start,
    servers: list[PausedServer],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def failing(*_: object) -> None:
        raise LitmeterError("no more processes")

    monkeypatch.setattr("litmeter.measure.comparison.inprocess_workers", failing)
    with start(servers[:1], servers, [USERS]) as pipelines:
        assert pipelines.names == set()
    assert "no in-process rates of stock in the rounds: no more processes" in capsys.readouterr().out


def test_a_comparison_has_their_rates_beside_the_turns(
    exported: ModelFolders,
    photos: list[Path],
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("litmeter.measure.comparison.PIPELINES_EVERY", 1)
    monkeypatch.setattr(RoundRunner, "_has_time", lambda *_: True)
    settings = ComparisonSettings(reference="stock", users=(USERS,), seconds=1.0)
    bodies = request_bodies(photos, "image")
    pair = {name: CONFIGURATIONS[name] for name in ("stock", "batching")}
    found = compare(pair, exported, "cpu", bodies, short_load(USERS), settings, 1.0, start)
    with_pipeline = {(turn.round, turn.name) for turn in found.turns if turn.pipeline_rps}
    assert with_pipeline == {(number, name) for number in (1, 2) for name in pair}
    assert descendants_mentioning(HOST) == []


def test_without_memory_for_the_models_there_are_none(
    start: Start,
    servers: list[PausedServer],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("litmeter.measure.comparison.available_memory", lambda: 2**20)
    with start(servers, servers, [USERS]) as pipelines:
        assert pipelines.names == set()
        assert descendants_mentioning(HOST) == []
    assert "no in-process rates in the rounds, for want of memory" in capsys.readouterr().out
