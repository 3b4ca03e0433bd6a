"""A LitAPI behind the direct transport: LitServe's answers, and what the transport itself adds."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import requests
from PIL import Image

from litmeter.cli.main import main
from litmeter.direct.binding import KEY_HEADER, KEY_VARIABLE
from litmeter.kinds.configuration import Configuration
from litmeter.kinds.lit_api import LitApi
from litmeter.kinds.server import StartedServer
from litmeter.measure.figures import read_scrape
from litmeter.paths import MODEL
from litmeter.system.processes import process_group
from tests.integration.asking import in_flight, metric, wait_for
from tests.support.server_processes import by_role, stopped
from tests.support.servers import APIS, free_port, healthy, litserve_alone, running_server

FORM = "application/x-www-form-urlencoded"


class Sent(NamedTuple):
    """A request."""

    body: bytes
    content_type: str | None = "application/json"


def sent_json(content: Any) -> Sent:
    return Sent(json.dumps(content).encode())


def multipart(**fields: str | bytes) -> Sent:
    """A form; what is given as bytes is a file."""
    parts = b""
    for name, value in fields.items():
        file = b'; filename="a"' if isinstance(value, bytes) else b""
        content = value if isinstance(value, bytes) else value.encode()
        parts += b'--x\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n' % (name.encode(), file)
        parts += content + b"\r\n"
    return Sent(parts + b"--x--\r\n", "multipart/form-data; boundary=x")


def png(colour: str) -> str:
    Image.new("RGB", (20, 10), colour).save(buffer := io.BytesIO(), "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


UNREADABLE = [
    *(Sent(body) for body in (b"", b"{", b"\xff", b"[" * 100_000)),
    *(Sent(b"\xff\xfe", kind) for kind in (None, "text/plain", "image/jpeg")),
    Sent('{"number": "é"}'.encode("latin-1")),
    Sent(b'{"number": 1}', "multipart/form-data"),
]
NOT_A_MODEL = [Sent(b"NaN"), Sent(b"\xff\xfe", FORM)]
"""What FastAPI refuses where a model is wanted, by an answer that it cannot write as JSON."""
MALFORMED = [
    *UNREADABLE,
    *NOT_A_MODEL,
    *(Sent(body) for body in (b"null", b"[1]", b'"text"')),
    *(Sent(b'{"number": 1}', kind) for kind in (None, "", "text/plain", "application/JSON; charset=utf-8")),
    *(Sent(b'{"number": 1}', kind) for kind in (FORM, "image/jpeg")),
    Sent('{"number": "é"}'.encode("utf-16")),
    multipart(),
    Sent(multipart(number="1", file=b"123").body[:50], "multipart/form-data; boundary=x"),
]
ANSWERS = (
    *("dict", "list", "text", "number", "none", "tuple", "set", "long", "not finite", "hidden", "surrogate"),
    *("enum", "dataclass", "model", "date", "bytes", "numpy", "float32", "object"),
    *("json", "plain", "empty", "binary", "elsewhere"),
)
ERRORS = ("teapot", "details", "unavailable", "no content", "starlette", "value", "key")
METHODS = ("decode", "predict", "encode")
PROMPT = {"prompt": "a cat", "temperature": 0.5}
REQUESTS: Mapping[str, list[Sent]] = {
    "lit_apis:Anything": [
        *(sent_json({"answer": name}) for name in ANSWERS),
        *(
            sent_json({"in": where, "raise": name})
            for name in ERRORS
            for where in ("decode", "predict", "encode")
        ),
        sent_json({"short": True}),
        *MALFORMED,
    ],
    "lit_apis:Misannotated": [sent_json({"input": 2}), sent_json({"input": 1})],
    "lit_examples:Pipeline": [sent_json({"input": number}) for number in (4, 0.5, "x")],
    "lit_examples:Arrays": [sent_json({"input": row}) for row in ([1, 2], [0.5, -1], [1])],
    "lit_examples:Tokens": [sent_json({"text": text}) for text in ("a", "a longer one", 3)],
    "lit_examples:Typed": [
        *(
            sent_json(PROMPT | change)
            for change in ({}, {"temperature": "1"}, {"temperature": 3}, {"more": 1})
        ),
        *(Sent(json.dumps(PROMPT).encode(), kind) for kind in (None, "text/plain", "application/vnd.a+json")),
        sent_json({"temperature": "warm"}),
        *MALFORMED,
    ],
    "lit_examples:Picture": [sent_json({"prompt": text}) for text in ("cat", "a dog", "")],
    "lit_examples:Classify": [sent_json({"image_data": data}) for data in (png("red"), png("blue"), "?")],
    "lit_examples:Transcribe": [
        multipart(content=b"abc", language="en"),
        multipart(content=2_000_000 * b"a", language="en"),
        multipart(content="no file", language="en"),
        Sent(b"content=abc&language=en", FORM),
        *MALFORMED,
    ],
    "lit_examples:Upload": [multipart(request=b"abc"), multipart(request="text"), multipart(), *MALFORMED],
    "lit_examples:FormModel": [
        *(Sent(body, FORM) for body in (b"user=me&age=3", b"user=me&age=three", b"age=3", b"")),
        multipart(user="me", age="3"),
        *MALFORMED,
    ],
}


def settings(name: str, max_batch_size: int = 1, **others: Any) -> Configuration:
    given: dict[str, Any] = {"max_batch_size": max_batch_size, "transport": "direct", **others}
    if max_batch_size > 1:
        given.setdefault("batch_timeout_s", 0.02)
    return LitApi(api=name if ":" in name else f"lit_apis:{name}", folder=str(APIS), **given)


def ask(url: str, sent: Sent) -> requests.Response:
    headers = {} if sent.content_type is None else {"Content-Type": sent.content_type}
    return requests.post(url, data=sent.body, headers=headers, timeout=60, allow_redirects=False)


def answer(url: str, sent: Sent) -> tuple[int, str | None, str | None, bytes]:
    """Status, content type, own header and body of an answer."""
    got = ask(url, sent)
    return got.status_code, got.headers.get("Content-Type"), got.headers.get("Location"), got.content


@pytest.mark.parametrize("batch", [1, 4])
def test_answers_are_those_of_litserve_to_the_byte(batch: int) -> None:
    with litserve_alone(batch, *REQUESTS) as url:
        expected = {
            name: [answer(f"{url}/{name.partition(':')[2]}", one) for one in sent]
            for name, sent in REQUESTS.items()
        }
    for name, sent in REQUESTS.items():
        statuses = {status for status, *_ in expected[name]}
        assert 200 in statuses
        assert len(statuses) > 1
        with running_server(MODEL, settings(name, batch), "cpu", 30.0) as server:
            url = f"{server.url}/predict"
            found = [answer(url, one) for one in sent]
            with ThreadPoolExecutor(8) as pool:
                good = [one for one, (status, *_) in zip(sent, expected[name], strict=True) if status == 200]
                batched = list(pool.map(lambda one: answer(url, one), 4 * good))  # noqa: B023
        for one, theirs, ours in zip(sent, expected[name], found, strict=True):
            refused = UNREADABLE + (NOT_A_MODEL if name == "lit_examples:Typed" else [])
            if one in refused and theirs[0] == 500:
                assert ours[0] == 422, (name, one)
                assert json.loads(ours[3])["detail"], (name, one)
            else:
                assert ours == theirs, (name, one)
        assert batched == 4 * [one for one in expected[name] if one[0] == 200]


@pytest.mark.parametrize("name", ["lit_apis:Anything", "lit_examples:Typed"])
def test_whoever_sends_what_cannot_be_read_fills_no_log(name: str) -> None:
    """LitServe and FastAPI write a traceback for each."""
    with running_server(MODEL, settings(name), "cpu", 30.0) as server:
        statuses = {ask(f"{server.url}/predict", one).status_code for one in UNREADABLE}
        assert statuses <= {200, 400, 422}
        assert 422 in statuses
        assert "Traceback" not in server.log.read_text()


@pytest.fixture(scope="module")
def server() -> Iterator[StartedServer]:
    with running_server(MODEL, settings("Anything", 4), "cpu", 30.0) as running:
        yield running
        assert in_flight(running.url) == 0


def number(value: int) -> Sent:
    return sent_json({"number": value})


def in_one_batch(server: StartedServer, sent: list[Sent]) -> list[requests.Response]:
    """The answers to requests that wait together until a worker takes them."""
    workers = by_role(server.url, "worker")
    with ThreadPoolExecutor(len(sent)) as pool, stopped(workers):
        asked = [pool.submit(ask, f"{server.url}/predict", one) for one in sent]
        wait_for(lambda: in_flight(server.url) == len(sent))
        workers[0].send_signal(signal.SIGCONT)
        return [one.result() for one in asked]


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (Sent(b"{"), 422),
        (sent_json({"in": "decode", "raise": "teapot"}), 418),
        (sent_json({"in": "decode", "raise": "key"}), 500),
    ],
)
def test_a_bad_item_does_not_fail_the_others_of_its_batch(
    bad: Sent, status: int, server: StartedServer
) -> None:
    answers = in_one_batch(server, [number(1), bad, number(2), number(3)])
    assert [one.status_code for one in answers] == [200, status, 200, 200]
    assert [answers[place].json() for place in (0, 2, 3)] == [{"number": place} for place in (1, 2, 3)]


@pytest.mark.parametrize("where", ["predict", "encode"])
def test_a_failing_method_fails_its_batch(where: str, server: StartedServer) -> None:
    answers = in_one_batch(server, [sent_json({"in": where, "raise": "teapot"}), *map(number, range(3))])
    assert [one.status_code for one in answers] == [418] * 4


def test_headers_are_kept(server: StartedServer) -> None:
    """LitServe drops those of an HTTPException."""
    url = f"{server.url}/predict"
    made = ask(url, sent_json({"answer": "json"}))
    assert (made.headers["X-Own"], made.headers["Retry-After"]) == ("yes", "7")
    assert ask(url, sent_json({"in": "predict", "raise": "details"})).headers["X-Own"] == "yes"
    assert "Retry-After" not in ask(url, sent_json({"in": "predict", "raise": "unavailable"})).headers


def test_all_else_is_litserves_own(server: StartedServer) -> None:
    others = settings("Anything", 4, transport="litserve")
    with running_server(MODEL, others, "cpu", 30.0) as litserve:
        for path in ("/", "/info", "/openapi.json", "/docs", "/predict", "/nowhere"):
            ours, theirs = (requests.get(one.url + path, timeout=10) for one in (server, litserve))
            assert (ours.status_code, ours.content) == (theirs.status_code, theirs.content), path


def test_the_stages_are_timed(server: StartedServer) -> None:
    before = read_scrape(requests.get(f"{server.url}/metrics", timeout=10).text)
    for value in range(5):
        ask(f"{server.url}/predict", sent_json({"number": value, "sleep_s": 0.02}))
    after = read_scrape(requests.get(f"{server.url}/metrics", timeout=10).text)
    assert after.whole[1] - before.whole[1] == after.batched[0] - before.batched[0] == 5
    for stage in ("queue", "decode", "batch_wait", "model", "encode"):
        assert after.stages[stage][1] - before.stages[stage][1] == 5
    assert after.stages["model"][0] - before.stages["model"][0] >= 0.1


@pytest.mark.parametrize("how", ["killed", "stopped", "hangs"])
def test_a_worker_that_fails_loses_its_request_and_is_replaced(how: str) -> None:
    with (
        running_server(MODEL, settings("Anything", worker_timeout_s=1.5), "cpu", 30.0) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        url, [worker] = f"{server.url}/predict", by_role(server.url, "worker")
        asked = pool.submit(ask, url, sent_json({"sleep_s": 60.0 if how == "hangs" else 1.0}))
        wait_for(lambda: in_flight(server.url) == 1)
        wait_for(lambda: worker.status() == psutil.STATUS_SLEEPING)
        if how != "hangs":
            wait_for(lambda: metric(server.url, 'litmeter_stage_seconds_count{stage="decode"}') == 1)
            worker.send_signal(signal.SIGKILL if how == "killed" else signal.SIGSTOP)
        lost = asked.result()
        assert (lost.status_code, lost.headers["Retry-After"]) == (503, "1")
        assert ask(url, number(1)).json() == {"number": 1}
        assert metric(server.url, "litmeter_workers_killed_total") == (how != "killed")


def test_a_worker_whose_gpu_fails_loses_its_request_and_is_replaced() -> None:
    with running_server(MODEL, settings("LosesItsGpu"), "cpu", 30.0) as server:
        url, [worker] = f"{server.url}/predict", by_role(server.url, "worker")
        lost = ask(url, sent_json({"input": 13}))
        assert (lost.status_code, lost.headers["Retry-After"]) == (503, "1")
        wait_for(lambda: not worker.is_running())
        assert ask(url, sent_json({"input": 3})).json() == {"output": 9.0}
        assert "GPU context is broken" in server.log.read_text()


def test_a_request_that_waits_too_long_gets_504_by_both_transports() -> None:
    for transport in ("litserve", "direct"):
        slow = settings("Anything", transport=transport)
        with running_server(MODEL, slow, "cpu", 0.5) as server, ThreadPoolExecutor(2) as pool:
            url = f"{server.url}/predict"
            asked = [pool.submit(ask, url, sent_json({"sleep_s": 1.5})) for _ in range(2)]
            assert sorted(one.result().status_code for one in asked) == [200, 504]


def test_requests_beyond_the_queue_are_refused() -> None:
    with (
        running_server(MODEL, settings("Anything", max_queue=2, max_queue_mib=1), "cpu", 30.0) as server,
        ThreadPoolExecutor(2) as pool,
    ):
        url = f"{server.url}/predict"
        assert ask(url, sent_json({"number": 2**20 * "a"})).status_code == 413
        with stopped(by_role(server.url, "worker")):
            waiting = [pool.submit(ask, url, number(value)) for value in range(2)]
            wait_for(lambda: in_flight(server.url) == 2)
            refused = ask(url, number(3))
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert [one.result().status_code for one in waiting] == [200, 200]


def test_what_is_accepted_is_finished_when_the_server_stops() -> None:
    with (
        running_server(MODEL, settings("Anything", drain_s=300.0), "cpu", 30.0) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        asked = pool.submit(ask, f"{server.url}/predict", sent_json({"sleep_s": 1.0, "number": 5}))
        wait_for(lambda: in_flight(server.url) == 1)
        server.process.terminate()
        assert asked.result().json() == {"number": 5}
        assert server.process.wait(60) == 0


def test_health_asks_the_api(tmp_path: Path) -> None:
    file = tmp_path / "ill"
    with running_server(MODEL, settings("Unwell", api_kwargs={"file": str(file)}), "cpu", 30.0) as server:
        for state, status in (("ok", 200), ("unhealthy", 503)):
            health = requests.get(f"{server.url}/health", timeout=10)
            assert (health.status_code, health.json()["status"]) == (status, state)
            file.touch()


@pytest.mark.parametrize("name", ["Validated", "Square"])
def test_a_null_server_takes_the_same_requests(name: str) -> None:
    with running_server(MODEL, settings(name, 4), "cpu", 30.0, null=True) as server:
        url = f"{server.url}/predict"
        assert ask(url, sent_json({"input": 3})).content == b"0"
        assert ask(url, sent_json({})).status_code == (422 if name == "Validated" else 200)


def test_it_is_served_without_a_project_and_to_those_with_the_key() -> None:
    key, port = "open-sesame", free_port()
    command = [sys.executable, "-m", "litmeter.cli.main", "serve", "lit_apis:Square", "transport=direct"]
    command += ["max_batch_size=2", "--port", str(port)]
    with process_group(command, cwd=APIS, env=os.environ | {KEY_VARIABLE: key}, stop_s=30.0) as process:
        wait_for(lambda: healthy(f"http://127.0.0.1:{port}") or process.poll() is not None)
        for given, status in (({}, 401), ({KEY_HEADER: "x"}, 401), ({KEY_HEADER: key}, 200)):
            url, headers = f"http://127.0.0.1:{port}", {**given, "Content-Type": "application/json"}
            asked = requests.post(f"{url}/predict", data=b'{"input": 3}', headers=headers, timeout=30)
            assert asked.status_code == status
            for path in ("/info", "/metrics", "/docs"):
                assert requests.get(url + path, headers=headers, timeout=30).status_code == status
        assert asked.json() == {"output": 9.0}


RAISES = ["api_kwargs.method=setup", "api_kwargs.how=raises", "workers_per_device=2"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lit_apis:Stream", "transport=direct"], "transport: direct serves no LitAPI with stream"),
        (["lit_apis:Authorised", "transport=direct"], "with authorize"),
        (["lit_apis:InTheQuery", "transport=direct"], "whose request is not the body"),
        (["lit_apis:Nobody"], "lit_apis.py has no 'Nobody'; LitAPIs there: Square, "),
        (["lit_apis:Generates"], "must not be generator or async generator functions."),
        (["lit_apis:Generates", "transport=direct"], "must not be generator or async generator functions."),
        (["lit_apis:Broken", *RAISES], "setup: ValueError: no such thing as this; its log"),
        (
            ["lit_apis:Broken", *RAISES, "transport=direct"],
            "setup: ValueError: no such thing as this; its log",
        ),
        (["no_such_module:API"], "api: ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(APIS)
    assert main(["serve", *words, "--port", str(free_port())]) == 2
    error = capfd.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    if "its log: " in error:
        assert "Traceback" in Path(error.rpartition("its log: ")[2].strip()).read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "expected module:Class, got 'nothing'"),
        (["a:B", "transport=fast"], "litmeter: transport: got"),
        (["a:B", "max_bach=2"], "litmeter: max_bach: unknown key, did you mean max_batch_size?"),
        (["a:B", "8"], "expected key=value"),
    ],
)
def test_a_mistake_is_named(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *words]) == 2
    assert said in capsys.readouterr().err
