"""`make tune`'s pipeline: of its own, asked for by name, and going on where it was stopped."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import yaml

from litmeter.params import load_params
from litmeter.paths import TUNE_KNOBS, TUNE_METRICS, TUNE_PICTURE, TUNE_STUDY, TUNE_TABLE
from litmeter.system.files import read_json, read_rows
from litmeter.tune.rows import KnobRow, TuneRow
from litmeter.tune.study import NAME
from tests.pipeline.conftest import Clone

TUNE = {
    "precision": ["full"],
    "compiled": [False],
    "preprocess": ["timm", "torchvision"],
    "transport": ["direct"],
    "workers_per_device": [1],
    "threads_per_worker": [1],
    "max_batch_size": [4],
    "batch_timeout_s": [0.0],
    "keep_freed_memory": [True],
    "max_s": 15.0,
}
CONFIGURATIONS = 2
SLOW = {knob: values[0] for knob, values in TUNE.items() if isinstance(values, list)}
"""The slower one, which is the configuration to ship until the winner is applied."""


@pytest.fixture
def tuned(ran: Clone) -> Iterator[Clone]:
    """The clone with a small space, and without what a search leaves."""
    try:
        ran.change({"tune": TUNE, "serve": SLOW, "objective": {"max_s": 5.0, "probe_requests": 100}})
        for path in (TUNE_METRICS, TUNE_TABLE, TUNE_KNOBS, TUNE_PICTURE):
            (ran.path / path).unlink(missing_ok=True)
        yield ran
    finally:
        ran.git("checkout", "-q", ".")
        ran.git("clean", "-fdq", "metrics", "plots", "assets", "tune")
        (ran.path / TUNE_STUDY).unlink(missing_ok=True)


def kept_of(clone: Clone) -> dict[str, Any]:
    """What the study has: rounds and costs by their keys.

    Not read by Optuna, which would create missing tables, and then the search could not.
    """
    study = clone.path / TUNE_STUDY
    with (
        suppress(sqlite3.OperationalError),  # it has not been created yet
        closing(sqlite3.connect(f"file:{study}?mode=rw", uri=True)) as database,
    ):
        rows = database.execute("SELECT key, value_json FROM study_user_attributes")
        return {key: json.loads(value) for key, value in rows}
    return {}


def storage_of(clone: Clone) -> str:
    return f"sqlite:///{clone.path / TUNE_STUDY}"


def rounds_of(kept: dict[str, Any]) -> list[str]:
    return [key for key in kept if "/round/" in key]


def processes_of(clone: Clone) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if works_in(clone.path, process)]


def works_in(folder: Path, process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return Path(process.cwd()).is_relative_to(folder)
    return False


def kill(clone: Clone, search: subprocess.Popen[str]) -> None:
    """Kill a search, and wait until its servers have gone as well."""
    os.killpg(search.pid, signal.SIGKILL)
    search.communicate()
    deadline = time.monotonic() + 30
    while processes_of(clone):
        assert time.monotonic() < deadline, processes_of(clone)
        time.sleep(0.1)


def check_gone_on(kept: dict[str, Any], after: dict[str, Any]) -> None:
    """Nothing that was kept was lost or measured again."""
    assert {key: after[key] for key in kept} == kept


def test_a_search_that_was_killed_goes_on_and_finds_a_winner_that_can_be_applied(tuned: Clone) -> None:
    assert "tune" not in " ".join(tuned.stages_run(tuned.dvc("repro", "--dry").stdout))
    search = tuned.start(".venv/bin/litmeter", "tune")
    while search.poll() is None and len(rounds_of(kept_of(tuned))) < 2:
        time.sleep(0.1)
    kill(tuned, search)
    kept = kept_of(tuned)
    assert len(rounds_of(kept)) >= 2
    assert not (tuned.path / TUNE_METRICS).exists()
    done = tuned.dvc("repro", "tune/dvc.yaml")
    assert tuned.stages_run(done.stdout)[-1] == "tune/dvc.yaml:tune"
    assert f"1. {CONFIGURATIONS} configurations can run" in done.stdout
    after = kept_of(tuned)
    check_gone_on(kept, after)
    metrics = read_json(tuned.path / TUNE_METRICS)
    rows = read_rows(tuned.path / TUNE_TABLE, TuneRow)
    assert (metrics["combinations"], metrics["rounds"]) == (CONFIGURATIONS, len(rounds_of(after)))
    study = optuna.load_study(study_name=NAME, storage=storage_of(tuned))
    assert sorted(trial.user_attrs["name"] for trial in study.trials) == sorted(row.name for row in rows)
    assert rows[0].status == "winner"
    assert metrics["winner"]["preprocess"] == rows[0].preprocess
    assert all(row.rate_rps and row.rounds for row in rows)
    assert all(row.ratio for row in read_rows(tuned.path / TUNE_KNOBS, KnobRow))
    assert (tuned.path / TUNE_PICTURE).stat().st_size > 10_000
    tuned.run(".venv/bin/litmeter", "results")
    assert rows[0].name in (tuned.path / "docs/results.md").read_text()
    tuned.run(".venv/bin/litmeter", "tune", "--apply")
    serve = load_params(tuned.path / "params.yaml").serve
    assert {knob: getattr(serve, knob) for knob in metrics["winner"]} == metrics["winner"] != SLOW


@pytest.mark.soak
def test_a_search_that_is_killed_ten_times_goes_on_each_time(tuned: Clone) -> None:
    rng, kept = random.Random(7), {}
    for _ in range(10):
        search = tuned.start(".venv/bin/litmeter", "tune")
        with suppress(subprocess.TimeoutExpired):
            search.wait(rng.uniform(2.0, 25.0))
        kill(tuned, search)
        after = kept_of(tuned)
        check_gone_on(kept, after)
        kept = after
    tuned.run(".venv/bin/litmeter", "tune")
    check_gone_on(kept, kept_of(tuned))
    assert read_json(tuned.path / TUNE_METRICS)["rounds"] == len(rounds_of(kept_of(tuned)))


def test_a_wrong_value_is_one_line(tuned: Clone) -> None:
    content = yaml.safe_load((tuned.path / "params.yaml").read_text())
    content["tune"]["precision"] = ["fp8"]
    (tuned.path / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    done = tuned.run(".venv/bin/litmeter", "tune", check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "params.yaml: tune.precision.0: got 'fp8'; allowed: 'full', 'half' or 'int8'" in done.stderr
