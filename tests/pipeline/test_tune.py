"""`make tune`'s pipeline: of its own, asked for by name, and going on where it was stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from litmeter.kinds.classifier import Classifier
from litmeter.measure.log import UNFINISHED
from litmeter.params import load_params
from litmeter.paths import TUNE_KNOBS, TUNE_METRICS, TUNE_PICTURE, TUNE_TABLE
from litmeter.system.files import read_json, read_rows
from litmeter.tune.rows import KnobRow, TuneRow
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
        ran.change({"tune": TUNE, "serve": SLOW, "objective": {"max_s": 5.0}})
        for path in (TUNE_METRICS, TUNE_TABLE, TUNE_KNOBS):
            (ran.path / path).unlink(missing_ok=True)
        yield ran
    finally:
        ran.git("checkout", "-q", ".")
        ran.git("clean", "-fdq", "metrics", "plots", "ondemand")
        for path in ran.unfinished_logs("tune"):
            path.unlink()


def raced(lines: list[str], name: str) -> int:
    """Number of turns of a configuration in the race."""
    asked = [json.loads(line)["asked"] for line in lines]
    return sum(one.get("subject") == name for one in asked)


def kill(clone: Clone, search: subprocess.Popen[str]) -> None:
    """Kill a search, and wait until its servers have gone as well."""
    os.killpg(search.pid, signal.SIGKILL)
    search.communicate()
    clone.wait_until_alone()


def test_a_search_that_was_killed_goes_on_and_finds_a_winner_that_can_be_applied(tuned: Clone) -> None:
    incumbent = Classifier(**SLOW).search_name
    search = tuned.start(".venv/bin/litmeter", "tune")
    while search.poll() is None and raced(tuned.unfinished_lines("tune"), incumbent) < 2:
        time.sleep(0.1)
    kill(tuned, search)
    [log], kept = tuned.unfinished_logs("tune"), tuned.unfinished_lines("tune")
    assert raced(kept, incumbent) >= 2
    with log.open("a") as file:  # as who is killed while writing
        file.write(kept[-1][: len(kept[-1]) // 2])
    assert not (tuned.path / TUNE_METRICS).exists()
    assert not tuned.git("status", "--porcelain", str(UNFINISHED))
    again = tuned.start(".venv/bin/litmeter", "tune")
    while again.poll() is None and raced(tuned.unfinished_lines("tune"), incumbent) <= raced(kept, incumbent):
        time.sleep(0.1)
    kill(tuned, again)
    assert tuned.unfinished_lines("tune")[: len(kept)] == kept
    done = tuned.dvc("repro", "ondemand/dvc.yaml:tune")
    assert [one for one in tuned.stages_run(done.stdout) if one.startswith("ondemand")] == [
        "ondemand/dvc.yaml:tune"
    ]
    assert tuned.unfinished_logs("tune") == []
    metrics = read_json(tuned.path / TUNE_METRICS)
    rows = read_rows(tuned.path / TUNE_TABLE, TuneRow)
    assert metrics["combinations"] == CONFIGURATIONS
    assert metrics["rounds"] >= 4
    assert rows[0].status == "winner"
    assert metrics["winner"]["preprocess"] == rows[0].knobs["preprocess"]
    assert all(row.rate_rps and row.rounds for row in rows)
    assert all(row.ratio for row in read_rows(tuned.path / TUNE_KNOBS, KnobRow))
    tuned.run(".venv/bin/litmeter", "results")
    assert (tuned.path / TUNE_PICTURE).stat().st_size > 10_000
    assert rows[0].name in (tuned.path / "docs/results.md").read_text()
    tuned.run(".venv/bin/litmeter", "tune", "--apply")
    serve = load_params(tuned.path / "params.yaml").serve
    assert {knob: getattr(serve, knob) for knob in metrics["winner"]} == metrics["winner"] != SLOW
