"""Whole runs, recorded: their logs, from which schedules decide all again, and what came of them.

``python -m tests.support.recorded FILE stage NAME...`` runs stages of the pipeline in the current folder;
``python -m tests.support.recorded FILE ARGUMENT...`` runs a command of litmeter. FILE then has the log of
each run, and the results that a report is made of, with what this code makes of them.
"""

from __future__ import annotations

import importlib
import inspect
import json
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from litmeter.kinds.configuration import Configuration
from litmeter.kinds.registry import read as read_keys
from litmeter.load.settings import LoadSettings
from litmeter.measure import run as loop
from litmeter.measure.capacity import capacity
from litmeter.measure.comparison_rows import comparison_rows, pairs
from litmeter.measure.log import Log, _asked_line
from litmeter.measure.rounds import comparison, head_to_head, restarted
from litmeter.measure.turn import Answer, MakeReady, Schedule, Turn, Work
from litmeter.params import ObjectiveSettings
from litmeter.report import snapshot as report
from litmeter.report.claims import claims
from litmeter.stats.gate import P95_ERROR
from litmeter.tune.search import Job, search
from litmeter.tune.space import Space

MISS = 0.05
RESULTS = ("params.yaml", "metrics", "plots")
SCHEDULES: dict[str, Callable[..., Schedule[Any]]] = {
    one.__name__: one for one in (comparison, head_to_head, restarted, capacity, search)
}
_run, _read_snapshot = loop.run, report.read_snapshot


@dataclass(frozen=True)
class Recording:
    """A log, the schedule's name and arguments, and what came of it."""

    log: Path
    schedule: str
    arguments: dict[str, Any]
    outcome: Any


def plain(value: Any) -> Any:
    """The value as JSON has it."""

    def fields(one: Any) -> Any:
        if is_dataclass(one) and not isinstance(one, type):
            return {key: getattr(one, key) for key in asdict(one)}
        return one.model_dump(mode="json") if hasattr(one, "model_dump") else sorted(one)

    return json.loads(json.dumps(value, default=fields))


def outcome_of(schedule: str, arguments: Mapping[str, Any], log: Log, result: Any) -> Any:
    """What came of a run, as JSON has it: rows and pairs of a comparison, a check's pair, else the result."""
    if schedule == "restarted":
        names, (starts_s, first_rounds) = arguments["names"], result
        pair = pairs(names, names[0], log.rows, log.first_ms(), P95_ERROR, first_rounds)
        return plain({"starts_s": starts_s, "first_rounds": first_rounds, "pairs": pair})
    if schedule in ("comparison", "head_to_head"):
        names = arguments["names"]
        measured = (names, arguments.get("reference", names[0]), log.rows, log.latencies_ms())
        return plain({"rows": comparison_rows(*measured, MISS), "pairs": pairs(*measured)})
    if schedule == "capacity":
        return plain({name: one.metrics for name, one in result.items()})
    return plain(result)


def assert_same(found: Any, recorded: Any, place: str) -> None:
    """Numbers to nine digits, all else as it is; ``place`` is said where they differ."""
    if isinstance(recorded, dict) and isinstance(found, dict):
        assert list(found) == list(recorded), place
        for key, value in recorded.items():
            assert_same(found[key], value, f"{place}, {key}")
    elif isinstance(recorded, list) and isinstance(found, list):
        assert len(found) == len(recorded), place
        for number, value in enumerate(recorded):
            assert_same(found[number], value, f"{place}, {number}")
    elif isinstance(recorded, float) and isinstance(found, float):
        assert found == pytest.approx(recorded, rel=1e-9), place
    else:
        assert found == recorded, place


class Replay(Log):
    """A log whose next turn is the one that is asked for, else an error: nothing is measured."""

    def repeated(self, asked: Turn | MakeReady) -> Answer | None:
        """The recorded answer."""
        line = self._lines[self._repeated]
        assert_same(own := _asked_line(asked), line["asked"], f"turn {self._repeated}")
        line["asked"] = own
        return super().repeated(asked)


def replayed(recording: Recording) -> Any:
    """What comes of the recorded log now."""
    log = Replay(recording.log)
    result = _run(schedule_of(recording), {}, log, 0.0, lambda *_: None)
    return outcome_of(recording.schedule, recording.arguments, log, result)


def schedule_of(recording: Recording) -> Schedule[Any]:
    """The schedule with its arguments."""
    given = dict(recording.arguments)
    if probed := given.get("probed"):
        given["probed"] = {name: [Work(**work) for work in works] for name, works in probed.items()}
    if recording.schedule == "capacity":
        given["objective"] = ObjectiveSettings.model_validate(given["objective"], strict=False)
    elif recording.schedule == "search":
        agreement, space, serve = given["agreement"], given["space"], read_keys(given["serve"])
        configurations = tuple(read_keys(one) for one in space["configurations"])
        given = {
            "job": Job(
                serve.tune_section.model_validate(given["tune"], strict=False),
                serve,
                LoadSettings.model_validate(given["load"], strict=False),
                ObjectiveSettings.model_validate(given["objective"], strict=False),
                Space(configurations, space["left_out"]),
                None if agreement is None else lambda one: agreement[one.model_dump_json()],
                given["cores"],
            )
        }
    return SCHEDULES[recording.schedule](**given)


def said_of(snapshot: report.Snapshot) -> Any:
    """What a report says: figures of the table, bounds, causes, sentences."""
    return plain(
        {
            "rows": snapshot.compared,
            "bounds": snapshot.bounds,
            "diagnoses": snapshot.diagnoses,
            "claims": [one.sentence for one in claims(snapshot)],
        }
    )


def recordings(folder: Path) -> Iterator[Recording]:
    """Those in a folder into which a file was unpacked."""
    for path in sorted(folder.glob("*.json")):
        if path.stem != "report":
            yield Recording(path.with_suffix(".jsonl"), **json.loads(path.read_text()))


class Recorder:
    """Stands before the loop and the reading of results, and keeps what passes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, schedule: Any, subjects: Any, log: Log, *others: Any, **options: Any) -> Any:
        """Run, and keep the log."""
        name, arguments = schedule.__name__, inspect.getgeneratorlocals(schedule)
        if name not in SCHEDULES:
            return _run(schedule, subjects, log, *others, **options)
        file = self.folder / f"{len(list(self.folder.glob('*.json')))}-{name}.jsonl"
        log.path = log.path or file
        agreement: dict[str, float] = {}
        if name == "search":
            job: Job = arguments["job"]
            agrees = job.agreement

            def kept(one: Configuration) -> float:
                assert agrees is not None
                return agreement.setdefault(one.model_dump_json(), agrees(one))

            schedule = search(replace(job, agreement=agrees and kept))
        result = _run(schedule, subjects, log, *others, **options)
        if name == "search":
            arguments = {key: getattr(job, key) for key in asdict(replace(job, agreement=None))}
            arguments["agreement"] = agrees and agreement
        if log.path != file:
            shutil.copy(log.path, file)
        own = {"schedule": name, "arguments": plain(arguments)}
        outcome = {"outcome": outcome_of(name, own["arguments"], log, result)}
        file.with_suffix(".json").write_text(json.dumps(own | outcome))
        return result

    def read_snapshot(self, label: str = "") -> report.Snapshot:
        """Read the results, and keep them."""
        found = _read_snapshot(label)
        if not label:
            shutil.rmtree(self.folder / "results", ignore_errors=True)
            (self.folder / "results").mkdir()
            for name in RESULTS:
                copy = shutil.copytree if Path(name).is_dir() else shutil.copy
                copy(name, self.folder / "results" / name)
            (self.folder / "report.json").write_text(json.dumps(said_of(found)))
        return found


def main() -> None:
    """Record what the arguments name."""
    file, what, *names = sys.argv[1:]
    with tempfile.TemporaryDirectory() as name:
        recorder = Recorder(Path(name))
        with (
            patch.object(loop, "run", recorder.run),
            patch.object(report, "read_snapshot", recorder.read_snapshot),
        ):
            if what == "stage":  # imported only now: they take both from their modules
                for stage in names:
                    importlib.import_module(f"litmeter.stages.{stage}").main()
            else:
                importlib.import_module("litmeter.cli.main").main(names)
        with tarfile.open(file, "w:xz") as archive:
            archive.add(name, ".")


if __name__ == "__main__":
    main()
