"""The workers of a subject in-process: their processes, their rates, and how they fail."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from litmeter.errors import LitmeterError
from litmeter.kinds.classifier import Classifier
from litmeter.kinds.configuration import Configuration
from litmeter.kinds.lit_api import LitApi
from litmeter.load.bodies import Bodies
from litmeter.measure.subjects import InProcess
from litmeter.measure.turn import Turn, Work, WorkKind
from litmeter.paths import ModelFolders
from litmeter.system.cores import whole_cores
from tests.support.processes import descendants_mentioning

HOST = "litmeter.measure.inprocess_workers"
NOTHING = Bodies([], "image/jpeg")
"""The classifier's pipeline works on the photos of the index."""
WITHOUT_PIPELINE = {
    *("max_batch_size", "batch_timeout_s", "transport", "max_queue", "max_queue_mib"),
    *("worker_timeout_s", "drain_s", "check_answers", "path", "num_api_servers", "ready_s"),
}


@pytest.mark.parametrize("kind", [Classifier, LitApi])
def test_every_key_belongs_to_the_pipeline_or_does_not(kind: type[Configuration]) -> None:
    others = WITHOUT_PIPELINE - kind.pipeline_keys
    assert set(kind.model_fields) - others == kind.pipeline_keys


def test_each_work_has_its_rate(exported: ModelFolders, indexed: Path) -> None:
    subject = InProcess("e1", Classifier(threads_per_worker=1).of(exported), "cpu", NOTHING)
    with subject.start() as ready:
        ready()
        kinds: tuple[WorkKind, ...] = ("model", "preprocess", "pipeline")
        ms = {}
        for kind in kinds:
            done = subject.load(Turn("e1", Work(kind, 2, 0.3)), lambda: None)
            assert len(done.blocks) == 10
            assert done.blocks.min() > 0
            ms[kind] = done.cpu_ms
        assert ms["pipeline"] > max(ms["model"], ms["preprocess"]) > 0
    assert descendants_mentioning(HOST) == []


def test_all_workers_run_at_once_in_their_own_threads_and_in_one_each(
    exported: ModelFolders, indexed: Path
) -> None:
    serve = Classifier(workers_per_device=whole_cores() + 1)
    subject = InProcess("e3", serve.of(exported), "cpu", NOTHING)
    with subject.start() as ready:
        ready()
        for threads in (None, 1, None):
            work = Work("crowded", 2, 0.2, serve.workers, threads)
            assert subject.load(Turn("e3", work), lambda: None).blocks.min() > 0
        assert len(descendants_mentioning(HOST)) == 1 + whole_cores()
    assert descendants_mentioning(HOST) == []


@pytest.mark.parametrize("allowed", ["all", "one"])
def test_workers_beyond_the_cores_are_started_where_a_turn_takes_them_and_end_with_it(
    exported: ModelFolders, indexed: Path, allowed: str, request: pytest.FixtureRequest
) -> None:
    """They are on a GPU only."""
    if allowed == "one":
        request.getfixturevalue("one_cpu")
    cores = len(os.sched_getaffinity(0))
    serve = Classifier(workers_per_device=cores + 1, threads_per_worker=1)
    subject = InProcess("e3", serve.of(exported), "cpu", NOTHING)
    assert subject.workers <= cores
    with subject.start() as ready:
        ready()
        started = descendants_mentioning(HOST)
        assert len(started) == 1 + cores
        done = subject.load(Turn("e3", Work("preprocess", 1, 0.1, busy=cores + 1)), lambda: None)
        assert descendants_mentioning(HOST) == started
        assert min(done.blocks) > 0


def test_a_worker_that_dies_is_named(exported: ModelFolders, indexed: Path) -> None:
    subject = InProcess("e1", Classifier(threads_per_worker=1).of(exported), "cpu", NOTHING)
    with subject.start() as ready:
        ready()
        [worker] = psutil.Process(subject.pid).children()
        worker.kill()
        with pytest.raises(LitmeterError, match=r"e1 in-process died \(exit status 1\)[\s\S]*a worker died"):
            subject.load(Turn("e1", Work("model", 1, 0.1)), lambda: None)
