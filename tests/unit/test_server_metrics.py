"""Two scrapes of a server's metrics, subtracted."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from litmeter.direct.metrics import exposition
from litmeter.measure.figures import Scrape, between, read_scrape


class Server:
    """Metrics as the real server names them, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.stage = Histogram("litmeter_stage_seconds", "", ["stage"], registry=self.registry)
        self.whole = Histogram("litmeter_request_seconds", "", ["code"], registry=self.registry)
        self.batch = Histogram("litmeter_batch_size", "", buckets=(1, 2, 4), registry=self.registry)
        process = Gauge("litmeter_process", "", ["role", "pid"], registry=self.registry)
        process.labels("http", "11").set(1)
        process.labels("worker", "12").set(1)

    def answer(self, batch: int, model_s: float, whole_s: float) -> None:
        self.batch.observe(batch)
        for _ in range(batch):
            self.stage.labels("queue").observe(0.010)
            self.stage.labels("model").observe(model_s)
            self.whole.labels("200").observe(whole_s)

    def scrape(self) -> Scrape:
        return read_scrape(generate_latest(self.registry).decode())


def test_a_window_is_the_difference_of_two_scrapes() -> None:
    server = Server()
    server.answer(1, 9.0, 9.0)
    before = server.scrape()
    for batch in (2, 4, 9):
        server.answer(batch, 0.020, 0.050)
    after = server.scrape()
    assert between(after, after, 0) == ({}, None)  # without a request
    stage_ms, batch_size = between(before, after, 3)
    assert stage_ms == pytest.approx({"queue": 10.0, "model": 20.0, "transport": 20.0})
    assert batch_size == pytest.approx(5.0)
    assert after.roles == {11: "http", 12: "worker"}


def test_where_batches_alone_are_counted_they_hold_what_was_answered() -> None:
    assert between(Scrape(batched=(0.0, 10.0)), Scrape(batched=(0.0, 60.0)), answered=200) == ({}, 4.0)


def test_a_process_that_has_just_created_its_file_hides_nothing_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    file = MmapedDict(str(tmp_path / "counter_1.db"))  # type: ignore[no-untyped-call]
    file.write_value(mmap_key("killed", "killed_total", [], [], ""), 3.0, 0.0)  # type: ignore[no-untyped-call]
    file.close()  # type: ignore[no-untyped-call]
    (tmp_path / "counter_2.db").touch()
    assert "killed_total 3.0" in exposition().decode()
