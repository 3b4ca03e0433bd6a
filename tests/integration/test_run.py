"""The one loop with real servers and real workers in-process: who runs, who sleeps, and what is left."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from litmeter.classifier.server.client import request_bodies
from litmeter.errors import LitmeterError, ServerError
from litmeter.kinds.classifier import Classifier
from litmeter.load import LoadGenerator, LoadPlan, load_generator
from litmeter.load.bodies import Bodies
from litmeter.load.stub import running_stub
from litmeter.measure.log import Log
from litmeter.measure.run import Memory, run
from litmeter.measure.subjects import Done, InProcess, Served, Subject, Target, pipelines_of
from litmeter.measure.turn import (
    LeftOut,
    Sample,
    Schedule,
    Turn,
    Work,
    attempt,
    in_process,
    make_ready,
    measure,
)
from litmeter.paths import ModelFolders
from litmeter.system.cores import available_cores
from tests.support.asking import wait_for
from tests.support.load import plan
from tests.support.processes import descendants_mentioning, processes_mentioning

HOST = "litmeter.measure.inprocess_workers"
STOCK = Classifier(threads_per_worker=1)
DIRECT = Classifier(threads_per_worker=1, transport="direct", max_batch_size=4, preprocess="torchvision")
SETTINGS = {"stock": STOCK, "direct": DIRECT, "null": DIRECT}
LOAD = plan(4, warmup_s=0.2, min_s=0.6, max_s=0.6, timeout_s=30.0)
WORK = Work("pipeline", 2, 0.2)
LEAST_CLIENT_S = 20e-6
"""CPU time of the load generator per request: less than two system calls and some lines of Python take. It is
read in ticks of 10 ms, more than a slow turn's requests take together."""
BODIES = Bodies([], "image/jpeg")
"""The classifier's pipeline works on the photos of the index."""


@pytest.fixture(scope="module")
def sender(photos: list[Path]) -> Iterator[LoadGenerator]:
    with load_generator(request_bodies(photos, "image"), "image/jpeg") as generator:
        yield generator


@pytest.fixture(autouse=True)
def _no_process_is_left(exported: ModelFolders) -> Iterator[None]:
    yield
    assert processes_mentioning(str(exported.exported)) == []
    assert descendants_mentioning(HOST) == []


@pytest.fixture
def subjects(exported: ModelFolders, indexed: Path, sender: LoadGenerator) -> dict[str, Subject]:
    """Three servers, of which two have the same pipeline."""
    served = {
        name: Served(name, own.of(exported), sender, "cpu", 30.0, null=name == "null")
        for name, own in SETTINGS.items()
    }
    own = {name: one.of(exported) for name, one in SETTINGS.items()}
    return served | pipelines_of(own, "cpu", BODIES, 8)


def servers(folders: ModelFolders) -> dict[str, psutil.Process]:
    """Main processes of the servers of a model, by the names of ``SETTINGS``."""
    found = {}
    for process in psutil.Process().children():
        command = process.cmdline()
        if "litmeter.classifier.server" in command and str(folders.exported) in command[-1]:
            options = json.loads(command[-1])
            stock = options["settings"].get("transport") != DIRECT.transport
            found["null" if options["null_model"] else "stock" if stock else "direct"] = process
    return found


def sleeps(server: psutil.Process) -> bool:
    """Whether all of its processes are stopped."""
    processes = [server, *server.children(recursive=True)]
    return {process.status() for process in processes} == {psutil.STATUS_STOPPED}


def turns(names: Sequence[str], load: LoadPlan | Work = LOAD) -> Schedule[list[Sample]]:
    """Have each ready, and measure one after another."""
    yield from make_ready(names)
    samples = []
    for number, name in enumerate(names):
        samples.append((yield from measure(Turn(name, load, number))))
    return samples


def test_servers_run_in_their_turns_only_and_end_when_they_are_not_named(
    exported: ModelFolders, subjects: dict[str, Subject]
) -> None:
    awake: dict[str, set[str]] = {}

    def show(text: str, seconds: float, end_s: float) -> None:
        if text in SETTINGS:
            found = servers(exported).items()
            awake.setdefault(text, set()).update(name for name, one in found if not sleeps(one))

    def schedule() -> Schedule[list[Sample]]:
        ready = yield from make_ready(list(SETTINGS))
        assert ready.names == tuple(SETTINGS)
        assert all(ready.ready_s[name] for name in SETTINGS)
        samples = []
        for name in [*SETTINGS, "stock", "direct"]:
            wait_for(lambda: all(map(sleeps, servers(exported).values())), 5)
            time.sleep(1.0)
            samples.append((yield from measure(Turn(name, LOAD))))
        before = servers(exported)["direct"].pid
        ready = yield from make_ready(["direct"])
        assert (ready.names, servers(exported)["direct"].pid) == (("direct",), before)
        assert set(servers(exported)) == {"direct"}
        samples.append((yield from measure(Turn("direct", LOAD))))
        return samples

    log = Log()
    samples = run(schedule(), subjects, log, 10.0, show)
    assert awake == {name: {name} for name in SETTINGS}
    assert log.samples == samples
    assert [row.turn for row in log.rows] == list(range(6))
    for sample in samples:
        row, record = sample.row, sample.record
        assert row.sent == len(record.start) >= row.answers > 0
        # A request that had been stopped on its way would have waited through the others' turns.
        assert 1000 * (record.end - record.start).max() < 4000
        assert row.client_cores < row.server_cores < available_cores()
        assert row.memory_mib > 50
        assert row.client_wait_ms is not None
        assert row.workers_wait_ms > 0
        stages = row.stage_ms
        assert {"decode", "preprocess", "model"} <= set(stages)
        assert row.workers_cpu_ms > 0
    client_s = sum((row.client_cores or 0) * row.seconds for row in log.rows)
    assert client_s / sum(row.answers for row in log.rows) > LEAST_CLIENT_S
    assert all(later.row.at_s >= one.ended_s for one, later in itertools.pairwise(samples))


@pytest.mark.parametrize("when", ["turn", "sleep"])
def test_a_server_that_dies_ends_the_run_with_its_name(
    exported: ModelFolders, subjects: dict[str, Subject], when: str
) -> None:
    """In its turn, or while it sleeps; what was measured is in the log."""
    shown: list[str] = []

    def kill(text: str, seconds: float, end_s: float) -> None:
        shown.append(text)
        if shown.count({"turn": "direct", "sleep": "null"}[when]) == 2:  # as it is loaded
            server = servers(exported)["direct"]
            os.killpg(server.pid, signal.SIGKILL)
            os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)

    log = Log()
    with pytest.raises(ServerError, match=r"^direct: the server died \(exit status -9\)"):
        run(turns(["null", "direct"]), subjects, log, 10.0, kill)
    assert [row.subject for row in log.rows] == ["null"]


@pytest.mark.parametrize("pressed_at", ["starting direct", "null", "direct in-process"])
def test_after_ctrl_c_no_process_is_left(subjects: dict[str, Subject], pressed_at: str) -> None:
    def press(text: str, seconds: float, end_s: float) -> None:
        if text == pressed_at:
            raise KeyboardInterrupt

    def schedule() -> Schedule[None]:
        yield from make_ready(["null", "direct in-process", "direct"])
        yield from measure(Turn("null", LOAD))
        yield from measure(Turn("direct in-process", WORK))

    with pytest.raises(KeyboardInterrupt):
        run(schedule(), subjects, Log(), 10.0, press)


def test_two_are_served_without_memory_for_more(
    subjects: dict[str, Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a pipeline is not started where it has no room."""
    monkeypatch.setattr("litmeter.measure.run.available_memory", lambda: 2**20)

    def schedule() -> Schedule[tuple[str, ...]]:
        ready = yield from make_ready(["null", "direct", "stock", "direct in-process"])
        return ready.names

    assert run(schedule(), subjects, Log(), 10.0, lambda *_: None) == ("null", "direct")


def test_scattered_memory_is_given_back_for_a_server(
    subjects: dict[str, Subject], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Which would have no room beside it; before, it is held."""
    (tmp_path / "buddyinfo").write_text(f"Node 0, zone Normal {2**26 // 4096}\n")
    monkeypatch.setattr("litmeter.system.memory.FREE_BLOCKS", tmp_path / "buddyinfo")
    process = psutil.Process()
    before, held = process.memory_info().rss, []

    def available() -> int:
        held.append(process.memory_info().rss - before > 2**25)
        return 2**20 if held[-1] else 2**40

    monkeypatch.setattr("litmeter.measure.run.available_memory", available)

    def schedule() -> Schedule[tuple[str, ...]]:
        ready = yield from make_ready(["null", "direct", "stock"])
        return ready.names

    assert run(schedule(), subjects, Log(), 10.0, lambda *_: None) == ("null", "direct", "stock")
    assert held == [True, False]


def test_memory_has_room_for_a_fifth_more_than_workers_take() -> None:
    memory = Memory(lambda: 300)
    assert memory.fits(new=8, ready=8)  # nothing is known yet
    memory.worker_bytes = 100.0
    assert memory.fits(new=2, ready=2)  # 240 for the new ones, 40 for those that still grow
    assert not memory.fits(new=2, ready=4)


def test_a_pipeline_that_cannot_start_is_left_out_and_said(
    subjects: dict[str, Subject], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = ModelFolders(tmp_path / "nowhere", tmp_path / "compiled")
    broken = InProcess("broken", STOCK.of(nowhere), "cpu", BODIES)
    all_subjects = subjects | {"broken in-process": broken, "twin in-process": broken}
    names = ["broken in-process", "twin in-process", "stock in-process"]

    def schedule() -> Schedule[tuple[str, ...]]:
        ready = yield from make_ready(names)
        yield from measure(Turn("stock in-process", WORK))
        return ready.names

    assert run(schedule(), all_subjects, Log(), 10.0, lambda *_: None) == ("stock in-process",)
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("without broken in-process, twin in-process: ") == 1
    assert "nowhere/model.json: No such file" in printed
    with pytest.raises(LitmeterError, match="broken in-process"):
        run(turns(["broken in-process"], WORK), all_subjects, Log(), 10.0, lambda *_: None)


class Failing(Target):
    """A pipeline whose third turn fails."""

    essential, begun, turns = False, 0, 0

    def start(self) -> AbstractContextManager[Callable[[], None]]:
        """Find it ready, and count."""
        self.begun += 1
        return super().start()

    def load(self, turn: Turn, tick: Callable[[], None]) -> Done:
        """Work, or fail."""
        self.turns += 1
        if self.turns == 3:
            raise LitmeterError("a worker died; its log ends: ...")
        return Done(np.ones(10), 1.0)


def test_a_pipeline_that_fails_is_left_out_and_the_run_goes_on_also_after_it_was_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def schedule() -> Schedule[list[Sample | LeftOut]]:
        answers = []
        for name in ("a", "a", "stub", "a", "twin", "stub", "a"):
            yield from make_ready(["stub", "a", "twin"])
            answers.append((yield from attempt(Turn(name, LOAD if name == "stub" else WORK))))
        return answers

    with running_stub(0.01) as stub, load_generator([b"{}"], "application/json") as sender:
        failing = Failing(stub.url, sender)
        subjects = {"stub": Target(stub.url, sender), "a": failing, "twin": failing}
        path = tmp_path / "stage-key.jsonl"
        answers = run(schedule(), subjects, log := Log(path), 10.0, lambda *_: None)
        assert [type(answer) for answer in answers] == [Sample] * 3 + [LeftOut] * 2 + [Sample, LeftOut]
        assert (failing.begun, failing.turns) == (1, 3)
        assert " ".join(capsys.readouterr().out.split()).count("without a, twin: a worker died") == 1
        assert set(log.left_out) == {"a", "twin"}
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:-3]))  # killed after both were left out
        again = run(schedule(), subjects, Log(path), 10.0, lambda *_: None)
        assert [type(answer) for answer in again] == [type(answer) for answer in answers]
        assert (failing.begun, failing.turns) == (1, 3)


def test_a_turn_whose_workers_memory_does_not_hold_is_left_out_alone(
    subjects: dict[str, Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    free_bytes = [math.inf]
    monkeypatch.setattr("litmeter.measure.run.available_memory", lambda: free_bytes[0])
    name, crowded = in_process("direct"), replace(WORK, kind="crowded", busy=3)

    def schedule() -> Schedule[list[Sample | LeftOut]]:
        yield from make_ready([name])
        hosts = descendants_mentioning(HOST)
        answers = [(yield from attempt(Turn(name, crowded)))]
        assert descendants_mentioning(HOST) == hosts  # they have ended
        free_bytes[0] = 0.0
        answers += [(yield from attempt(Turn(name, crowded))), (yield from attempt(Turn(name, WORK)))]
        return answers

    answers = run(schedule(), subjects, Log(), 10.0, lambda *_: None)
    assert [type(answer) for answer in answers] == [Sample, LeftOut, Sample]


def test_names_of_the_same_pipeline_share_its_processes(subjects: dict[str, Subject]) -> None:
    """Until none of them is named any more."""
    direct, null, stock = (in_process(name) for name in ("direct", "null", "stock"))
    assert subjects[direct] is subjects[null] is not subjects[stock]

    def schedule() -> Schedule[list[Sample]]:
        ready = yield from make_ready([direct, null])
        assert ready.names == (direct, null)
        hosts = descendants_mentioning(HOST)
        assert len(hosts) == 2  # one that starts workers, and a worker
        samples = [(yield from measure(Turn(direct, WORK)))]
        samples.append((yield from measure(Turn(null, WORK))))
        yield from make_ready([null])
        assert descendants_mentioning(HOST) == hosts
        samples.append((yield from measure(Turn(null, WORK))))
        yield from make_ready([stock])
        assert not set(hosts) & set(descendants_mentioning(HOST))
        return samples

    rows = [sample.row for sample in run(schedule(), subjects, Log(), 10.0, lambda *_: None)]
    assert [(row.subject, row.work, row.batch_size) for row in rows] == [
        (name, "pipeline", 2) for name in ("direct", "null", "null")
    ]
    for row in rows:
        assert row.highest_rps > 0
        assert row.workers_cpu_ms > 0


START_S = 1.5


class SlowToStart(Target):
    """A server that takes its time until it is ready."""

    @contextmanager
    def start(self) -> Iterator[Callable[[], None]]:
        """Wait, and find it ready."""
        time.sleep(START_S)
        yield lambda: None


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """By the clock too: the time between the two runs, and that of starting again, do not count."""
    path, names = tmp_path / "stage-key.jsonl", ["stub"] * 3

    def press(text: str, seconds: float, end_s: float) -> None:
        if len(log.rows) == 2:
            raise KeyboardInterrupt

    with running_stub(0.01) as stub, load_generator([b"{}"], "application/json") as sender:
        subjects = {"stub": SlowToStart(stub.url, sender)}
        log = Log(path)
        with pytest.raises(KeyboardInterrupt):
            run(turns(names), subjects, log, 10.0, press)
        sent = len(stub.log())
        time.sleep(START_S)
        again = Log(path)
        samples = run(turns(names), subjects, again, 10.0, lambda *_: None)
        assert log.rows[0].at_s >= START_S
        assert again.rows[:2] == log.rows
        assert len(stub.log()) - sent == samples[2].row.sent
        assert 0 <= round(samples[2].row.at_s - samples[1].ended_s, 3) < 1.0  # both are in whole ms
        assert samples[2].row.other_percent is None  # the stub is nobody's child that is known
        os.kill(stub.pid, signal.SIGKILL)
        done = Log(path)
        assert [sample.row for sample in run(turns(names), subjects, done, 10.0)] == again.rows
