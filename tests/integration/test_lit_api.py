"""A LitAPI behind LitServe's transport and in-process; test_direct_api.py compares its answers."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from litmeter.kinds.configuration import Configuration, Preflight
from litmeter.kinds.lit_api import LitApi
from litmeter.kinds.preflight import check_apis
from litmeter.kinds.server import StartedServer
from litmeter.load import load_generator
from litmeter.load.bodies import Bodies
from litmeter.measure.figures import read_scrape
from litmeter.measure.subjects import InProcess
from litmeter.measure.turn import Turn, Work
from litmeter.paths import MODEL
from tests.support.load import plan
from tests.support.processes import descendants_mentioning
from tests.support.servers import APIS, running_server

HOST = "litmeter.measure.inprocess_workers"
JSON = Bodies([json.dumps({"input": number}).encode() for number in (1, 2.5, 4)], "application/json")


def settings(name: str, max_batch_size: int = 1, **others: Any) -> Configuration:
    timeout_s = 0.02 if max_batch_size > 1 else 0.0
    sizes = {"max_batch_size": max_batch_size, "batch_timeout_s": timeout_s}
    return LitApi(api=f"lit_apis:{name}", folder=str(APIS), **sizes, **others)


def answers(server: StartedServer) -> list[Any]:
    """The answers to the bodies, sent at once."""

    def answer(body: bytes) -> Any:
        return requests.post(f"{server.url}/predict", data=body, timeout=30).json()

    with ThreadPoolExecutor(len(JSON.contents)) as pool:
        return list(pool.map(answer, JSON.contents))


@pytest.mark.parametrize("batch", [1, 4])
def test_the_times_of_the_stages_add_up_to_less_than_the_whole(batch: int) -> None:
    seconds, rounds = 0.02, 3
    with running_server(MODEL, settings("Sleeps", batch, api_kwargs={"seconds": seconds})) as server:
        for _ in range(rounds):
            answers(server)
        scrape = read_scrape(requests.get(f"{server.url}/metrics", timeout=30).text)
    number = rounds * len(JSON.contents)
    for stage in ("queue", "decode", "batch_wait", "model", "encode"):
        assert scrape.stages[stage][1] == number
    for stage in ("decode", "model", "encode"):
        assert scrape.stages[stage][0] >= number * seconds
    assert sum(total for total, _ in scrape.stages.values()) <= scrape.whole[0]
    assert scrape.whole[1] == number


def test_what_streams_is_served_and_its_workers_are_known() -> None:
    with running_server(MODEL, settings("Stream", path="/parts")) as server:
        reply = requests.post(f"{server.url}/parts", data=JSON.contents[0], timeout=30)
        assert json.loads(reply.text) == {"output": 1}
        assert "Content-Length" not in reply.headers
        scrape = read_scrape(requests.get(f"{server.url}/metrics", timeout=30).text)
    assert scrape.whole[1] == 1
    assert "worker" in scrape.roles.values()


@pytest.mark.parametrize("batch", [1, 4])
def test_the_null_server_of_what_streams_streams(batch: int) -> None:
    with running_server(MODEL, settings("Stream", batch), null=True) as server:
        reply = requests.post(f"{server.url}/predict", data=JSON.contents[0], timeout=30)
    assert (reply.text, "Content-Length" in reply.headers) == ("0", False)


def test_each_work_in_process_has_its_rate() -> None:
    """What the API prints does not get into the answers of its process."""
    serve = settings("Sleeps", 4, api_kwargs={"seconds": 0.01}, workers_per_device=2, threads_per_worker=1)
    subject = InProcess("e1", serve, "cpu", JSON)
    with subject.start() as ready:
        ready()
        assert subject.threads == 1
        rate_rps = {
            kind: subject.load(Turn("e1", Work(kind, 4, 0.2, busy=1)), lambda: None).blocks.mean()
            for kind in ("model", "preprocess", "pipeline")
        }
    assert rate_rps["pipeline"] < min(rate_rps["model"], rate_rps["preprocess"])
    assert rate_rps["preprocess"] <= 100
    assert rate_rps["model"] <= 100 * 4
    assert descendants_mentioning(HOST) == []


def test_its_processes_import_nothing_of_the_classifier() -> None:
    serve = settings("Lean")
    with running_server(MODEL, serve) as server:
        assert answers(server) == ["none"] * 3
    subject = InProcess("e1", serve, "cpu", JSON)
    with subject.start() as ready:
        ready()
        assert subject.load(Turn("e1", Work("pipeline", 1, 0.1)), lambda: None).blocks.min() > 0


@pytest.mark.parametrize("transport", ["litserve", "direct"])
def test_arguments_and_headers_are_on_no_command_line(transport: str, tmp_path: Path) -> None:
    """Which all users of the machine may read, as the environment they may not."""
    secret, seen, done = "s3cret-t0ken", dict[int, str](), threading.Event()
    serve = settings("Unwell", api_kwargs={"file": str(tmp_path / secret)}, transport=transport)

    def look() -> None:
        while not done.wait(0.002):
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess, FileNotFoundError):
                    seen[process.pid] = seen.get(process.pid, "") + " ".join(process.cmdline())
                    assert Path(f"/proc/{process.pid}/environ").stat().st_mode & 0o077 == 0

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        try:
            [checked] = check_apis({"a": serve}, Preflight(JSON, "cpu", 30.0, quick=True)).values()
            with (
                running_server(MODEL, serve) as server,
                load_generator(*JSON[:2], {"Authorization": secret}) as generator,
            ):
                record = generator.run(server.target, plan(2))
                assert requests.get(f"{server.url}/health", timeout=30).status_code == 200
                (tmp_path / secret).touch()
                assert requests.get(f"{server.url}/health", timeout=30).status_code == 503
        finally:
            done.set()
        looking.result()
    assert not checked.fault
    assert set(record.code) == {200}
    assert len(seen) > 5
    assert not [line for line in seen.values() if secret in line]
