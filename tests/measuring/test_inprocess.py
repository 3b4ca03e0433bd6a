"""Rates of a configuration's workers in-process: their processes, and how they fail."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from litmeter.errors import LitmeterError
from litmeter.measure.inprocess import ONE_THREAD, inprocess_workers
from litmeter.params import BaselineSettings, ServeSettings
from litmeter.paths import ModelFolders
from tests.support.processes import descendants_mentioning

SETTINGS = BaselineSettings(batch_sizes=(1, 2), seconds=0.2)


def test_rates_by_batch_size_in_rounds_of_which_every_other_has_the_reverse_order(
    exported: ModelFolders, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU time of one thread is measured in the first round only."""
    serve = ServeSettings(workers_per_device=1, threads_per_worker=2)
    with inprocess_workers(exported, serve, "cpu", photos, SETTINGS) as inprocess:
        inprocess.wait_until_ready()
        run, ran = inprocess.run, list[tuple[str, int]]()

        def watched(work: str, batch_size: int, seconds: float, busy: int) -> tuple[list[float], float]:
            ran.append((work, batch_size))
            return run(work, batch_size, seconds, busy)

        monkeypatch.setattr(inprocess, "run", watched)
        inprocess.measure()
        (first, ran), once = (ran, []), inprocess.rows()
        inprocess.measure()
        rows = inprocess.rows()
        assert inprocess.threads == 2
        assert inprocess.busy == 1
    assert {work for work, _ in first} == {"model", "pipeline", ONE_THREAD}
    assert ran == [one for one in reversed(first) if one[0] != ONE_THREAD]
    numbers = {(row.work, row.batch_size, row.round) for row in inprocess.rounds()}
    assert numbers == {(work, size, number) for work, size in ran for number in (0, 1)}
    assert [row.batch_size for row in rows] == inprocess.batch_sizes
    for row in rows:
        assert row.workers == inprocess.busy
        assert row.model_low_rps <= row.model_rps <= row.model_high_rps
        assert row.pipeline_rps > 0
        assert row.pipeline_cpu_ms > 0
        assert row.pipeline_slowest_rps <= row.pipeline_rps <= row.pipeline_fastest_rps
    assert rows != once
    assert descendants_mentioning("litmeter.measure.inprocess_workers") == []


def test_workers_beyond_the_cores_are_started_when_they_are_needed(
    exported: ModelFolders, photos: list[Path]
) -> None:
    """The search needs them on a GPU only."""
    cores = os.cpu_count() or 1
    serve = ServeSettings(workers_per_device=cores + 1, threads_per_worker=1)
    with inprocess_workers(exported, serve, "cpu", photos, SETTINGS) as inprocess:
        inprocess.wait_until_loaded()
        started = descendants_mentioning("litmeter.measure.inprocess_workers")
        rates, _ = inprocess.run("preprocess", 1, 0.1, cores + 1)
        assert len(descendants_mentioning("litmeter.measure.inprocess_workers")) == len(started) + 1
        assert len(started) == 1 + cores
        assert min(rates) > 0


def test_a_worker_that_fails_shows_the_end_of_its_log(tmp_path: Path, photos: list[Path]) -> None:
    nowhere = ModelFolders(tmp_path / "nowhere", tmp_path / "compiled")
    with (
        pytest.raises(LitmeterError, match=r"baseline died \(exit status 1\); its log ends") as caught,
        inprocess_workers(nowhere, ServeSettings(), "cpu", photos, SETTINGS) as inprocess,
    ):
        inprocess.measure()
    assert "nowhere/model.json: No such file" in str(caught.value)
