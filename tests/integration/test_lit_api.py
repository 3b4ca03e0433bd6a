"""A LitAPI of a user's own, served and in-process: its answers, its stages, its null server."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from litmeter.direct.lit_api import lit_server, load_class, make_api
from litmeter.direct.pipeline import ApiPipeline, payloads_of
from litmeter.kinds.configuration import Configuration
from litmeter.kinds.lit_api import LitApi
from litmeter.kinds.preflight_process import as_sent
from litmeter.load.bodies import Bodies
from litmeter.measure.figures import read_scrape
from litmeter.measure.subjects import InProcess
from litmeter.measure.turn import Turn, Work
from litmeter.paths import MODEL
from tests.support.processes import descendants_mentioning
from tests.support.servers import APIS, litserve_alone, running_server

HOST = "litmeter.measure.inprocess_workers"
JSON = Bodies([json.dumps({"input": number}).encode() for number in (1, 2.5, 4)], "application/json")
FORM = Bodies(
    [
        b'--x\r\nContent-Disposition: form-data; name="input"\r\n\r\n%d\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc\r\n--x--\r\n' % number
        for number in (1, 2, 4)
    ],
    "multipart/form-data; boundary=x",
)
BODIES = {"Square": JSON, "Context": JSON, "OwnBatch": JSON, "Validated": JSON, "Form": FORM}


def settings(name: str, max_batch_size: int = 1, **others: Any) -> Configuration:
    timeout_s = 0.02 if max_batch_size > 1 else 0.0
    sizes = {"max_batch_size": max_batch_size, "batch_timeout_s": timeout_s}
    return LitApi(api=f"lit_apis:{name}", folder=str(APIS), **sizes, **others)


def answers(url: str, bodies: Bodies) -> list[Any]:
    """The answers to the bodies, sent at once."""

    def answer(body: bytes) -> Any:
        headers = {"Content-Type": bodies.content_type}
        reply = requests.post(url, data=body, headers=headers, timeout=30)
        return reply.json() if reply.status_code == 200 else reply.status_code

    with ThreadPoolExecutor(len(bodies.contents)) as pool:
        return list(pool.map(answer, bodies.contents))


@pytest.mark.filterwarnings("ignore:Unclosed file", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("batch", [1, 4])
def test_answers_are_those_of_litserve_alone(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forms are files that nobody closes, with LitServe alone, too."""
    with litserve_alone(batch, *(f"lit_apis:{name}" for name in BODIES)) as url:
        expected = {name: answers(f"{url}/{name}", bodies) for name, bodies in BODIES.items()}
    monkeypatch.syspath_prepend(APIS)
    for name, bodies in BODIES.items():
        assert all(isinstance(answer, dict) for answer in expected[name])
        serve = settings(name, batch)
        with running_server(MODEL, serve, "cpu", 30.0) as server:
            assert answers(f"{server.url}/predict", bodies) == expected[name]
        api = make_api(serve, load_class(str(serve.api)))
        payloads = payloads_of(lit_server(api, serve, "cpu", 30.0), *bodies)
        found = ApiPipeline(api, "cpu", payloads).answers(payloads)
        assert [as_sent(answer) for answer in found] == expected[name]


@pytest.mark.parametrize("batch", [1, 4])
def test_the_times_of_the_stages_add_up_to_less_than_the_whole(batch: int) -> None:
    seconds, rounds = 0.02, 3
    with running_server(
        MODEL, settings("Sleeps", batch, api_kwargs={"seconds": seconds}), "cpu", 30.0
    ) as server:
        for _ in range(rounds):
            answers(f"{server.url}/predict", JSON)
        scrape = read_scrape(requests.get(f"{server.url}/metrics", timeout=30).text)
    number = rounds * len(JSON.contents)
    for stage in ("queue", "decode", "batch_wait", "model", "encode"):
        assert scrape.stages[stage][1] == number
    for stage in ("decode", "model", "encode"):
        assert scrape.stages[stage][0] >= number * seconds
    assert sum(total for total, _ in scrape.stages.values()) <= scrape.whole[0]
    assert scrape.whole[1] == number


def test_a_null_server_takes_the_same_requests() -> None:
    for name, bodies in BODIES.items():
        with running_server(MODEL, settings(name, 4), "cpu", 30.0, null=True) as server:
            assert answers(f"{server.url}/predict", bodies) == [0, 0, 0]
            if name == "Validated":
                assert answers(f"{server.url}/predict", Bodies([b"{}"], JSON.content_type)) == [422]


def test_what_streams_is_served_and_its_workers_are_known() -> None:
    with running_server(MODEL, settings("Stream", path="/parts"), "cpu", 30.0) as server:
        reply = requests.post(f"{server.url}/parts", data=JSON.contents[0], timeout=30)
        assert json.loads(reply.text) == {"output": 1}
        scrape = read_scrape(requests.get(f"{server.url}/metrics", timeout=30).text)
    assert scrape.whole[1] == 1
    assert "worker" in scrape.roles.values()


@pytest.mark.parametrize("batch", [1, 4])
def test_each_work_in_process_has_its_rate(batch: int) -> None:
    """What the API prints does not get into the answers of its process."""
    serve = settings(
        "Sleeps", batch, api_kwargs={"seconds": 0.01}, workers_per_device=2, threads_per_worker=1
    )
    subject = InProcess("e1", serve, "cpu", JSON)
    with subject.start() as ready:
        ready()
        assert subject.threads == 1
        rate_rps = {
            kind: subject.load(Turn("e1", Work(kind, batch, 0.2, busy=1)), lambda: None).blocks.mean()
            for kind in ("model", "preprocess", "pipeline")
        }
    assert rate_rps["pipeline"] < min(rate_rps["model"], rate_rps["preprocess"])
    assert rate_rps["preprocess"] <= 100
    assert rate_rps["model"] <= 100 * batch
    assert descendants_mentioning(HOST) == []


def test_its_processes_import_nothing_of_the_classifier() -> None:
    serve = settings("Lean")
    with running_server(MODEL, serve, "cpu", 30.0) as server:
        assert answers(f"{server.url}/predict", JSON) == ["none"] * 3
    subject = InProcess("e1", serve, "cpu", JSON)
    with subject.start() as ready:
        ready()
        assert subject.load(Turn("e1", Work("pipeline", 1, 0.1)), lambda: None).blocks.min() > 0
