"""A LitAPI behind the direct transport: LitServe's answers, and what the transport itself adds."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import requests

from litmeter.cli.main import main
from litmeter.direct.binding import KEY_HEADER, KEY_VARIABLE, Binding
from litmeter.direct.lit_api import lit_server, load_class, make_api
from litmeter.direct.pipeline import ApiPipeline, payloads_of
from litmeter.kinds.configuration import Configuration
from litmeter.kinds.lit_api import LitApi
from litmeter.kinds.preflight_process import as_sent
from litmeter.kinds.server import StartedServer
from litmeter.measure.figures import read_scrape
from litmeter.paths import MODEL
from litmeter.system.processes import process_group
from tests.support.asking import in_flight, metric, wait_for
from tests.support.lit_apis import ANSWERS, ERRORS
from tests.support.server_processes import by_role, stopped
from tests.support.servers import APIS, free_port, healthy, litserve_alone, running_server

JSON = {"Content-Type": "application/json"}
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
METHODS = ("decode", "predict", "encode")
PROMPT = {"prompt": "a cat", "temperature": 0.5}
CHANGES: list[dict[str, Any]] = [{}, {"temperature": "1"}, {"temperature": 3}, {"more": 1}]
REQUESTS: Mapping[str, list[Sent]] = {
    "Anything": [
        *(sent_json({"answer": name}) for name in ANSWERS),
        *(sent_json({"in": where, "raise": name}) for name in ERRORS for where in METHODS),
        sent_json({"short": True}),
        *MALFORMED,
    ],
    "Misannotated": [sent_json({"input": 2}), sent_json({"input": 1})],
    "Square": [sent_json({"input": number}) for number in (4, 0.5, "x")],
    "Arrays": [sent_json({"input": row}) for row in ([1, 2], [0.5, -1], [1])],
    "Tokens": [sent_json({"text": text}) for text in ("a", "a longer one", 3)],
    "Typed": [
        *(sent_json(PROMPT | change) for change in CHANGES),
        *(Sent(json.dumps(PROMPT).encode(), kind) for kind in (None, "text/plain", "application/vnd.a+json")),
        sent_json({"temperature": "warm"}),
        *MALFORMED,
    ],
    "Transcribe": [
        multipart(content=b"abc", language="en"),
        multipart(content=2_000_000 * b"a", language="en"),
        multipart(content="no file", language="en"),
        Sent(b"content=abc&language=en", FORM),
        *MALFORMED,
    ],
    "Upload": [multipart(request=b"abc"), multipart(request="text"), multipart(), *MALFORMED],
    "FormModel": [
        *(Sent(body, FORM) for body in (b"user=me&age=3", b"user=me&age=three", b"age=3", b"")),
        multipart(user="me", age="3"),
        *MALFORMED,
    ],
}
BY_LITSERVE_TOO = ("Arrays", "Tokens", "Typed", "Transcribe")
"""Also asked behind LitServe's transport, and in-process."""


def settings(name: str, batch: int = 1, **others: Any) -> Configuration:
    given = {"max_batch_size": batch, "batch_timeout_s": 0.02 if batch > 1 else 0.0, "transport": "direct"}
    return LitApi(api=f"lit_apis:{name}", folder=str(APIS), **(given | others))


def api_server(
    name: str, batch: int = 1, timeout_s: float = 30.0, **others: Any
) -> AbstractContextManager[StartedServer]:
    return running_server(MODEL, settings(name, batch, **others), timeout_s=timeout_s)


def ask(url: str, sent: Sent) -> requests.Response:
    headers = {} if sent.content_type is None else {"Content-Type": sent.content_type}
    return requests.post(url, data=sent.body, headers=headers, timeout=60, allow_redirects=False)


def answer(url: str, sent: Sent) -> tuple[int, str | None, str | None, bytes]:
    """Status, content type, own header and body of an answer."""
    got = ask(url, sent)
    return got.status_code, got.headers.get("Content-Type"), got.headers.get("Location"), got.content


@pytest.mark.filterwarnings("ignore:Unclosed file", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.smoke
def test_answers_are_those_of_litserve_to_the_byte(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forms are files that nobody closes, with LitServe alone, too."""
    monkeypatch.syspath_prepend(APIS)
    with litserve_alone(batch, *(f"lit_apis:{name}" for name in REQUESTS)) as url:
        expected = {name: [answer(f"{url}/{name}", one) for one in sent] for name, sent in REQUESTS.items()}
    for name, sent in REQUESTS.items():
        good = [(one, theirs) for one, theirs in zip(sent, expected[name], strict=True) if theirs[0] == 200]
        assert 0 < len(good) < len(sent)
        with api_server(name, batch) as server:
            url = f"{server.url}/predict"
            found = [answer(url, one) for one in sent]
            with ThreadPoolExecutor(8) as pool:
                batched = list(pool.map(lambda one: answer(url, one[0]), 4 * good))  # noqa: B023
            # LitServe and FastAPI write a traceback for each request that cannot be read.
            assert name != "Typed" or "Traceback" not in server.log.read_text()
        assert batched == 4 * [theirs for _, theirs in good]
        for one, theirs, ours in zip(sent, expected[name], found, strict=True):
            refused = UNREADABLE + (NOT_A_MODEL if name == "Typed" else [])
            if one in refused and theirs[0] == 500:
                assert ours[0] == 422, (name, one)
                assert json.loads(ours[3])["detail"], (name, one)
            else:
                assert ours == theirs, (name, one)
        if name in BY_LITSERVE_TOO:
            check_litserve_and_in_process(settings(name, batch, transport="litserve"), good)


def check_litserve_and_in_process(own: Any, good: list[tuple[Sent, Any]]) -> None:
    with running_server(MODEL, own) as server, ThreadPoolExecutor(8) as pool:
        asked = list(pool.map(lambda one: answer(f"{server.url}/predict", one[0]), good))
    assert asked == [theirs for _, theirs in good]
    content_type = good[0][0].content_type
    alike = [(one, theirs) for one, theirs in good if one.content_type == content_type]
    api = make_api(own, load_class(own.api))
    payloads = payloads_of(lit_server(api, own, "cpu", 30.0), [one.body for one, _ in alike], content_type)
    found = ApiPipeline(api, "cpu", payloads).answers(payloads)
    assert [as_sent(one) for one in found] == [json.loads(theirs[3]) for _, theirs in alike]


@pytest.fixture(scope="module")
def server() -> Iterator[StartedServer]:
    with api_server("Anything", 4) as running:
        yield running
        assert in_flight(running.url) == 0


@pytest.fixture(scope="module")
def mortal() -> Iterator[StartedServer]:
    with api_server("Anything", worker_timeout_s=1.5) as running:
        yield running


def number(value: int) -> Sent:
    return sent_json({"number": value})


def in_one_batch(server: StartedServer, sent: list[Sent]) -> list[requests.Response]:
    """The answers to requests that wait together until a worker takes them."""
    workers = by_role(server.url, "worker")
    with ThreadPoolExecutor(len(sent)) as pool, stopped(workers):
        asked = [pool.submit(ask, f"{server.url}/predict", one) for one in sent]
        wait_for(lambda: in_flight(server.url) == len(sent))
        time.sleep(0.5)  # until their bodies have come, too
        workers[0].send_signal(signal.SIGCONT)
        return [one.result() for one in asked]


def test_whoever_sends_what_cannot_be_read_fills_no_log(server: StartedServer) -> None:
    statuses = {ask(f"{server.url}/predict", one).status_code for one in UNREADABLE}
    assert {422} <= statuses <= {200, 400, 422}
    assert "Traceback" not in server.log.read_text()


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
    with api_server("Anything", 4, transport="litserve") as litserve:
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
def test_a_worker_that_fails_loses_its_request_and_is_replaced(how: str, mortal: StartedServer) -> None:
    decoded, ended = 'litmeter_stage_seconds_count{stage="decode"}', "litmeter_workers_killed_total"
    before = {name: metric(mortal.url, name) for name in (decoded, ended)}
    url, [worker] = f"{mortal.url}/predict", by_role(mortal.url, "worker")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, url, sent_json({"sleep_s": 60.0 if how == "hangs" else 1.0}))
        if how != "hangs":
            wait_for(lambda: metric(mortal.url, decoded) == before[decoded] + 1)
            worker.send_signal(signal.SIGKILL if how == "killed" else signal.SIGSTOP)
        lost = asked.result()
    assert (lost.status_code, lost.headers["Retry-After"]) == (503, "1")
    assert ask(url, number(1)).json() == {"number": 1}
    assert metric(mortal.url, ended) - before[ended] == (how != "killed")


def test_a_worker_whose_gpu_fails_loses_its_request_and_is_replaced(server: StartedServer) -> None:
    url, [worker] = f"{server.url}/predict", by_role(server.url, "worker")
    lost = ask(url, sent_json({"gpu": "lost"}))
    assert (lost.status_code, lost.headers["Retry-After"]) == (503, "1")
    wait_for(lambda: not worker.is_running())
    assert ask(url, number(3)).json() == {"number": 3}
    assert "GPU context is broken" in server.log.read_text()


def test_a_request_that_waits_too_long_gets_504_by_both_transports() -> None:
    for transport in ("litserve", "direct"):
        with (
            api_server("Anything", timeout_s=0.5, transport=transport) as server,
            ThreadPoolExecutor(2) as pool,
        ):
            url = f"{server.url}/predict"
            asked = [pool.submit(ask, url, sent_json({"sleep_s": 1.5})) for _ in range(2)]
            assert sorted(one.result().status_code for one in asked) == [200, 504]


@pytest.mark.smoke
def test_requests_beyond_the_queue_are_refused_and_accepted_ones_finished_when_it_stops() -> None:
    with (
        api_server("Anything", max_queue=2, max_queue_mib=1, drain_s=300.0) as server,
        ThreadPoolExecutor(2) as pool,
    ):
        url = f"{server.url}/predict"
        assert ask(url, sent_json({"number": 2**20 * "a"})).status_code == 413
        with stopped(by_role(server.url, "worker")):
            waiting = [pool.submit(ask, url, number(value)) for value in range(2)]
            wait_for(lambda: in_flight(server.url) == 2)
            refused = ask(url, number(3))
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
            server.process.terminate()
        assert [one.result().status_code for one in waiting] == [200, 200]
        assert server.process.wait(60) == 0


@pytest.mark.parametrize("transport", ["litserve", "direct"])
def test_without_docs_no_page_describes_the_api(transport: str) -> None:
    for docs, status in ((True, 200), (False, 404)):
        binding = Binding(0, docs=docs)
        with running_server(MODEL, settings("Square", transport=transport), binding=binding) as server:
            for path in ("/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect"):
                assert requests.get(server.url + path, timeout=30).status_code == status
            assert ask(server.target, sent_json({"input": 3})).json() == {"output": 9.0}


@pytest.mark.parametrize(("role", "characters"), [("http", 60_000), ("worker", 60_000), ("worker", 200_000)])
def test_without_descriptors_a_batch_gets_503_and_the_worker_lives(role: str, characters: int) -> None:
    """Long answers of a batch, or a long request, come as a file, whose descriptor the kernel drops."""
    sent = sent_json({"number": characters * "a"}).body
    with api_server("Anything", 4, worker_timeout_s=5.0) as server, ExitStack() as stack:
        sessions = [stack.enter_context(requests.Session()) for _ in range(4)]
        [worker], [process] = by_role(server.url, "worker"), by_role(server.url, role)

        def post(session: requests.Session) -> int:
            return session.post(server.target, data=sent, headers=JSON, timeout=60).status_code

        with ThreadPoolExecutor(len(sessions)) as pool:
            assert {*pool.map(post, sessions)} == {200}  # connections that are open from now on
            most = process.rlimit(psutil.RLIMIT_NOFILE)
            with stopped([worker]):
                process.rlimit(psutil.RLIMIT_NOFILE, (3, most[1]))
                asked = [pool.submit(post, session) for session in sessions]
                time.sleep(0.5)
            statuses = [one.result() for one in asked]
            process.rlimit(psutil.RLIMIT_NOFILE, most)
            assert set(statuses) == {503}
            assert {*pool.map(post, sessions)} == {200}
        assert by_role(server.url, "worker") == [worker]
        assert most[0] == most[1]


def test_health_asks_the_api(tmp_path: Path) -> None:
    file = tmp_path / "ill"
    with api_server("Unwell", api_kwargs={"file": str(file)}) as server:
        for state, status in (("ok", 200), ("unhealthy", 503)):
            health = requests.get(f"{server.url}/health", timeout=10)
            assert (health.status_code, health.json()["status"]) == (status, state)
            file.touch()


@pytest.mark.parametrize(
    ("name", "transport"), [("Typed", "direct"), ("Typed", "litserve"), ("Transcribe", "litserve")]
)
def test_a_null_server_takes_the_same_requests(name: str, transport: str) -> None:
    with running_server(MODEL, settings(name, 4, transport=transport), null=True) as server:
        url = f"{server.url}/predict"
        assert ask(url, REQUESTS[name][0]).content == b"0"
        assert name != "Typed" or ask(url, sent_json({})).status_code == 422


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
        (["lit_apis:Stream", "transport=direct"], "stream"),
        (["lit_apis:Authorised", "transport=direct"], "authorize"),
        (["lit_apis:InTheQuery", "transport=direct"], "request"),
        (["lit_apis:Generates", "transport=direct"], "generator"),
        (["lit_apis:Broken", *RAISES], "setup: ValueError: no such thing"),
        (["lit_apis:Broken", *RAISES, "transport=direct"], "setup: ValueError: no such thing"),
        (["no_such_module:API"], "no_such_module"),
        (["nothing"], "module:Class"),
        (["a:B", "max_bach=2"], "max_batch_size"),
        (["a:B", "8"], "key=value"),
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
    assert "setup" not in said or "Traceback" in Path(error.rpartition("its log: ")[2].strip()).read_text()
