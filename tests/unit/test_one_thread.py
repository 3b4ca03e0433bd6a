"""The pipeline's CPU time is that of one thread: threads that wait for each other spin, which is no work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from litmeter.measure import inprocess_workers
from litmeter.measure.inprocess import ONE_THREAD, InProcessBaseline
from litmeter.params import BaselineSettings, ServeSettings
from litmeter.paths import ModelFolders

CPU_MS, SPINNING_MS = 5.0, 9.0
"""Of an image on one thread, and on two that spin at their barriers."""


class JsonLinesProcess:
    """Workers with ``threads``: two are faster than one, and take more CPU time for the same."""

    def __init__(self, threads: int) -> None:
        self.jobs: list[dict[str, Any]] = []
        self._answers: list[Any] = [threads]
        self._threads = threads

    def send(self, job: dict[str, Any]) -> None:
        self.jobs.append(job)
        alone = self._threads == 1 or job["work"] == ONE_THREAD
        rate, cpu_ms = (150.0, CPU_MS) if alone else (200.0, SPINNING_MS)
        self._answers.append(([rate * job["busy"]] * 10, cpu_ms))

    def answer(self) -> Any:
        return self._answers.pop(0)


def measured(threads: int) -> tuple[InProcessBaseline, JsonLinesProcess]:
    conversation = JsonLinesProcess(threads)
    fake: Any = conversation
    baseline = InProcessBaseline(fake, 2, BaselineSettings(batch_sizes=(1, 4), seconds=0.1), 2.0)
    for _ in range(3):
        baseline.measure()
    return baseline, conversation


def test_cpu_time_of_two_threads_is_measured_on_one() -> None:
    baseline, conversation = measured(threads=2)
    for row in baseline.rows():
        assert row.pipeline_cpu_ms == CPU_MS < SPINNING_MS
        assert row.pipeline_rps == 400.0  # the rate is that of all threads
    alone = [job for job in conversation.jobs if job["work"] == ONE_THREAD]
    assert [(job["batch_size"], job["busy"]) for job in alone] == [(1, 1), (4, 1)]
    assert {row.work for row in baseline.rounds()} == {"model", "pipeline"}


def test_one_thread_needs_no_measurement_of_its_own() -> None:
    baseline, conversation = measured(threads=1)
    assert [row.pipeline_cpu_ms for row in baseline.rows()] == [CPU_MS, CPU_MS]
    assert not [job for job in conversation.jobs if job["work"] == ONE_THREAD]


@pytest.fixture
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Predictor:
    """Keeps how many threads each batch had."""

    device = torch.device("cpu")

    def __init__(self, threads: list[int]) -> None:
        self._threads = threads

    def preprocess(self, photo: bytes) -> torch.Tensor:
        return torch.zeros(1)

    def batch(self, images: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(images)

    def predict(self, images: list[torch.Tensor]) -> None:
        self._threads.append(torch.get_num_threads())

    def forward(self, batch: torch.Tensor) -> None:
        self._threads.append(torch.get_num_threads())


class Pipe:
    """A worker's end: two requests for each kind of ``work``, then the end."""

    def __init__(self, work: list[str]) -> None:
        self._requests = [request for kind in work for request in ((kind, 2), (0.0, 0.0))]
        self.sent: list[Any] = []

    def recv(self) -> Any:
        if not self._requests:
            raise EOFError
        return self._requests.pop(0)

    def send(self, message: Any) -> None:
        self.sent.append(message)


@pytest.mark.usefixtures("_threads")
def test_a_worker_runs_that_on_one_thread_and_the_rest_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    threads: list[int] = []
    monkeypatch.setattr(inprocess_workers, "Predictor", lambda *_: Predictor(threads))
    pipe: Any = Pipe(["pipeline", ONE_THREAD, "model"])
    folders = ModelFolders(Path("exported"), Path("compiled"))
    with pytest.raises(EOFError):
        inprocess_workers.run_worker(pipe, folders, "cpu", ServeSettings(), [b"photo"])
    assert pipe.sent[0] == 2
    assert threads == [2, 2, 1, 1, 2, 2]  # a batch to warm up, and one that is measured
