"""`litmeter loadtest`: any server, any body, and one line for whatever is wrong with them."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from litmeter.cli.main import main
from litmeter.load.stub import running_stub
from litmeter.measure.rows import TurnRow
from litmeter.system.files import read_rows
from tests.support.servers import free_port
from tests.support.stub_server import Handler
from tests.support.tables import read_csv

QUICK = ["--users", "1,2", "--requests", "5", "--seconds", "3"]


class Recorder(ThreadingHTTPServer):
    """A server that keeps what it is sent, and fails once it has answered ``good`` requests."""

    def __init__(self, good: int) -> None:
        super().__init__(("127.0.0.1", 0), Recording)
        self.good = good
        self.requests: list[tuple[dict[str, str], bytes]] = []


class Recording(Handler):
    server: Recorder

    def status(self) -> int:
        self.server.requests.append((dict(self.headers), self.body))
        return 200 if len(self.server.requests) <= self.server.good else 503


@contextmanager
def recorder(good: int = 10**9) -> Iterator[tuple[str, Recorder]]:
    with Recorder(good) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/predict", server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def body(tmp_path: Path) -> Path:
    path = tmp_path / "body.json"
    path.write_bytes(b'{"text": "hello"}')
    return path


def loadtest(url: str, body: Path, *options: str) -> int:
    return main(["loadtest", "--url", url, "--body", str(body), "--warmup-s", "0.1", *options])


def verdict(capsys: pytest.CaptureFixture[str]) -> str:
    """Of the last level."""
    return capsys.readouterr().out.splitlines()[-1].split("|")[-2]


def test_levels_share_the_seconds_that_are_given_or_take_less_where_their_requests_are_answered(
    body: Path, tmp_path: Path
) -> None:
    given = ("--users", "1,2", "--max-windows", "3", "--out", str(out := tmp_path / "levels.csv"))
    with running_stub(0.002) as stub:
        loadtest(stub.url, body, *given, "--seconds", "5")
        rows = read_rows(out, TurnRow)
        assert all(row.seconds > 2.4 for row in rows)
        assert min(row.seconds for row in rows) < 5
        loadtest(stub.url, body, *given, "--requests", "5", "--seconds", "3600")
        assert sum(row.seconds for row in read_rows(out, TurnRow)) < 3600


def test_a_server_is_measured_at_every_level(
    body: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "levels.csv"
    with running_stub(0.02, 2) as stub:  # long enough for a few samples of the CPU
        status = loadtest(stub.url, body, "--out", str(out), *QUICK[:-1], "1")
        log = stub.log()
    *_, head, _, one, two = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in head.split("|")][1:4] == ["users", "req/s", "95% interval"]
    rows = read_csv(out)
    assert [row["users"] for row in rows] == ["1", "2"]
    assert all(row["failed"] == row["timed_out"] == "0" for row in rows)
    # A busy machine may make a level unstable: that is for the row to say, and for the exit status.
    assert status == (1 if any(row["void"] for row in rows) else 0)
    for shown, row in zip((one, two), rows, strict=True):
        assert shown.startswith(f"| {row['users']} ")
        reason = row["void"]
        assert shown.split("|")[-2].strip().startswith(f"not valid: {reason}" if reason else "valid")
    assert sum(int(row["sent"]) for row in rows) + 1 == len(log)  # one was sent before the load
    assert float(rows[0]["rate_rps"]) == pytest.approx(50, rel=0.5)
    assert all(float(row["client_cores"]) >= 0 for row in rows)
    assert {row[key] for row in rows for key in ("server_cores", "workers_cpu_ms", "batch_size")} == {""}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--seconds 2 --rate 60", "not valid: overloaded"),
        ("--seconds 1 --rate 30 --slo-ms 45", "objective missed: 100% .* 5%; .* within 45 ms"),
    ],
)
def test_a_rate_is_offered_whatever_is_answered(
    body: Path, options: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_stub(0.05, 2) as stub:
        assert loadtest(stub.url, body, "--requests", "5", *options.split()) == 1
    assert re.search(said, verdict(capsys))


class InTwoSegments(Handler):
    """Writes head and body apart, with Nagle's algorithm."""

    wbufsize = 0


def test_the_40_ms_of_a_delayed_acknowledgement_are_named(
    body: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for handler in (InTwoSegments, Handler):
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever).start()
            loadtest(f"http://127.0.0.1:{server.server_port}/", body, "--users", "1", "--requests", "20")
            server.shutdown()
        assert ("TCP_NODELAY" in verdict(capsys)) == (handler is InTwoSegments)


@pytest.mark.parametrize("limit", ["S", "H"], ids=["soft", "hard"])
def test_the_load_generators_own_want_of_descriptors_is_no_failure_of_the_server(
    body: Path, limit: str
) -> None:
    """The soft limit is raised, at the hard one it is named."""
    given = ["--body", str(body), "--users", "100", "--seconds", "3"]
    with running_stub(0.02) as stub:
        run = [sys.executable, "-m", "litmeter.cli.main", "loadtest", "--url", stub.url, *given]
        ulimit = 'ulimit -S -n 64; test "$0" = S || ulimit -H -n 64; exec "$@"'
        done = subprocess.run(["/bin/sh", "-c", ulimit, limit, *run], capture_output=True, text=True)
    cells = [cell.strip() for cell in done.stdout.splitlines()[-1].split("|")]
    assert cells[9:11] == ["0", "0"]  # failed, timed out
    assert ("client-bound" in cells[-2]) == (limit == "H")


def test_the_share_that_may_miss_the_objective_is_given(
    body: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a server that takes longer for a fifth of the requests, by exponential times."""
    given = "--users 1 --requests 60 --seconds 9 --max-windows 3 --slo-ms 35 --miss"
    with running_stub(0.02, 1, random=True) as stub:
        loadtest(stub.url, body, *given.split(), "0.01")
        assert "allowed: 1%" in verdict(capsys)
        loadtest(stub.url, body, *given.split(), "0.5")
        assert "objective missed" not in verdict(capsys)


def test_bodies_and_headers_are_sent_as_they_were_given(body: Path, photos: list[Path]) -> None:
    template = '{"instances": [{"b64": "{image}", "options": {"top": 3}}]}'
    given = [
        "--template",
        template,
        "--images",
        *map(str, photos[:2]),
        "--content-type",
        "application/x-test",
    ]
    given += ["--header", "Authorization: Bearer a:b", "--header", "X-Two:2"]
    with recorder() as (url, server):
        loadtest(url, body, *given, *QUICK)
    expected = [
        {"instances": [{"b64": base64.b64encode(p.read_bytes()).decode(), "options": {"top": 3}}]}
        for p in photos[:2]
    ]
    sent = {content for _, content in server.requests}
    assert body.read_bytes() in sent
    assert [json.loads(content) for content in sent - {body.read_bytes()}] in (expected, expected[::-1])
    headers = {"Content-Type": "application/x-test", "Authorization": "Bearer a:b", "X-Two": "2"}
    assert all(headers.items() <= found.items() for found, _ in server.requests)


def test_a_folder_of_photos_is_sent_as_files(photos: list[Path]) -> None:
    folder = photos[0].parent
    with recorder() as (url, server):
        given = ["--images", str(folder), "--content-type", "image/jpeg", *QUICK]
        main(["loadtest", "--url", url, *given])
    assert {content for _, content in server.requests} <= {path.read_bytes() for path in folder.iterdir()}
    assert {headers["Content-Type"] for headers, _ in server.requests} == {"image/jpeg"}


def test_a_trace_is_sent_at_its_times(body: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (trace := tmp_path / "trace").write_text("100\n100\n101\n101.5\n104\n")
    given = ["--body", str(body), "--trace", str(trace), "--trace-scale", "2", "--slo-ms", "100"]
    with running_stub(0.01, 8) as stub:
        assert main(["loadtest", "--url", stub.url, *given]) == 0
        log = stub.log()[1:]  # without the first request, which is no part of the load
    off_s = np.abs(log[:, 0] - log[0, 0] - np.array([0.0, 0.0, 0.5, 0.75, 2.0]))
    assert np.median(off_s) < 0.05
    assert off_s.max() < 0.2  # the machine may pause for a moment
    assert re.search(r"valid; 2\.[01]\d? req/s", capsys.readouterr().out)


@pytest.mark.parametrize("senders", ["1", "2"])
def test_the_bodies_of_a_trace_are_sent_in_its_order(body: Path, tmp_path: Path, senders: str) -> None:
    (other := tmp_path / "other").write_bytes(b"other")
    order = [1, 0, 0, 1, 1, 0]
    (trace := tmp_path / "trace").write_text("".join(f"{n / 4},{which}\n" for n, which in enumerate(order)))
    with recorder() as (url, server):
        given = ["--body", str(body), "--body", str(other), "--trace", str(trace)]
        main(["loadtest", "--url", url, *given, "--senders", senders])
    sent = [content for _, content in server.requests[1:]]  # without the first request
    assert sent == [(body.read_bytes(), b"other")[index] for index in order]


def test_failures_under_load_are_counted_and_not_valid(
    body: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with recorder(good=20) as (url, _):
        assert loadtest(url, body, *QUICK) == 1
    out = capsys.readouterr().out
    assert re.search(r"not valid: ([1-9]\d*) failed and 0 timed out of \d+ \(status 503: \1\)", out)


def test_a_server_that_refuses_the_first_request_is_not_loaded(
    body: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with recorder(good=0) as (url, server):
        assert loadtest(url, body, *QUICK) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(f"{url} .*503: {{}}", line)
    assert len(server.requests) == 1


TEMPLATE = '{"image": "{image}"}'


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "--body, --form or --images"),
        (["--body", "missing"], "missing: No such file"),
        (["--images", "EMPTY"], "image file"),
        (["--images", "BODY", "--template", '{"image": ""}'], "{image}"),
        (["--body", "BODY", "--template", TEMPLATE], "--images"),
        (["--images", "BODY", "--content-type", "image/png", "--template", TEMPLATE], "--template"),
        (["--body", "BODY", "--header", "no colon"], "'no colon'"),
        (["--body", "BODY", "--header", "content-type: text/plain"], "--content-type"),
        (["--body", "BODY", "--rate", "9", "--users", "1"], "--users: not together with --rate"),
        (["--body", "BODY", "--connections", "9"], "--connections: only together with --rate"),
        (["--body", "BODY", "--arrivals", "constant"], "--arrivals: only together with --rate"),
        (["--body", "BODY", "--rate", "9", "--burstiness", "2"], "only together with --arrivals"),
        (["--body", "BODY", "--rate", "9", "--arrivals", "gamma"], "together with --burstiness"),
        (["--body", "BODY", "--trace", "FILE", "--seconds", "1"], "--trace: not together with"),
        (["--body", "BODY", "--trace-scale", "2"], "--trace-scale: only together with --trace"),
        (["--body", "BODY", "--miss", "0.01"], "--miss: only together with --slo-ms"),
        (["--body", "BODY", "--ca", "BODY"], "PEM"),
        (["--body", "BODY", "--trace", "BODY"], "line 1"),
        (["--body", "BODY"], "Connection refused"),
        (["--body", "BODY", "--url", "http://localhost:80000"], "'http://localhost:80000'"),
        (["capacity", "--body", "BODY", "--slo-ms", "50", "--url", "10.0.0.7/v1"], "'10.0.0.7/v1'"),
        (["predict", "BODY", "--url", "10.0.0.7/v1"], "'10.0.0.7/v1'"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    reason: str,
    body: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (empty := tmp_path / "empty").mkdir()
    paths = {"BODY": str(body), "EMPTY": str(empty)}
    given = [paths.get(argument, argument) for argument in arguments]
    if given[:1] not in (["capacity"], ["predict"]):
        url = [] if "--url" in given else ["--url", f"http://127.0.0.1:{free_port()}"]
        given = ["loadtest", *url, *given]
    assert main(given) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert reason in line
