"""`litmeter loadtest`: any server, any body, and one line for whatever is wrong with them."""

from __future__ import annotations

import base64
import csv
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from litmeter.cli.main import main
from litmeter.load.stub import running_stub
from litmeter.measure.rows import TurnRow
from litmeter.system.files import read_rows
from tests.support.servers import free_port

SHORT = ["--requests", "5", "--warmup-s", "0.1"]
QUICK = ["--users", "1,2", *SHORT, "--seconds", "0.5"]


class Recorder(ThreadingHTTPServer):
    """A server that keeps what it is sent, and fails once it has answered ``good`` requests."""

    def __init__(self, good: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.good = good
        self.requests: list[tuple[dict[str, str], bytes]] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Recorder

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((dict(self.headers), body))
        self.send_response(200 if len(self.server.requests) <= self.server.good else 503)
        self.send_header("Content-Length", "8")
        self.end_headers()
        self.wfile.write(b"too busy")

    def log_message(self, *_: object) -> None:
        pass


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


def test_a_level_takes_the_seconds_that_are_given_or_less_where_its_requests_are_answered(
    body: Path, tmp_path: Path
) -> None:
    out = tmp_path / "levels.csv"
    with running_stub(0.002) as stub:
        arguments = ["loadtest", "--url", stub.url, "--body", str(body), "--users", "1", "--out", str(out)]
        main([*arguments, "--seconds", "6"])
        [given] = read_rows(out, TurnRow)
        main([*arguments, "--requests", "5", "--seconds", "3600"])
        [less] = read_rows(out, TurnRow)
    assert given.seconds > 6
    assert less.seconds < 3600


def test_a_server_is_measured_at_every_level(
    body: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "levels.csv"
    with running_stub(0.02, 2) as stub:
        arguments = ["loadtest", "--url", stub.url, "--body", str(body), "--out", str(out), *QUICK[:-1]]
        status = main([*arguments, "1"])  # long enough for a few samples of the CPU
        log = stub.log()
    *_, head, _, one, two = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in head.split("|")][1:4] == ["users", "req/s", "95% interval"]
    assert one.startswith("| 1 ")
    assert two.startswith("| 2 ")
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["users"] for row in rows] == ["1", "2"]
    assert all(row["failed"] == row["timed_out"] == "0" for row in rows)
    # A busy machine may make a level unstable: that is for the row to say, and for the exit status.
    reasons = [row["void"] for row in rows]
    assert status == (1 if any(reasons) else 0)
    for shown, reason in zip((one, two), reasons, strict=True):
        assert shown.split("|")[-2].strip().startswith(f"not valid: {reason}" if reason else "valid")
    assert sum(int(row["sent"]) for row in rows) + 1 == len(log)  # one was sent before the load
    assert float(rows[0]["rate_rps"]) == pytest.approx(50, rel=0.5)
    assert all(float(row["client_cores"]) >= 0 for row in rows)
    assert {row[key] for row in rows for key in ("server_cores", "workers_cpu_ms", "batch_size")} == {""}


def test_a_rate_is_offered_whatever_is_answered(body: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["loadtest", "--body", str(body), *SHORT, "--seconds", "2", "--rate", "60"]
    with running_stub(0.05, 2) as stub:
        assert main([*arguments, "--url", stub.url]) == 1
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith("| 60/s ")
    assert "not valid: overloaded" in row


def test_a_rate_whose_requests_wait_misses_the_objective(
    body: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["loadtest", "--body", str(body), *SHORT, "--seconds", "1", "--rate", "30"]
    with running_stub(0.05, 2) as stub:
        assert main([*arguments, "--url", stub.url, "--slo-ms", "45"]) == 1
    verdict = capsys.readouterr().out.splitlines()[-1].split("|")[-2]
    assert "objective missed: 100% failed or took longer than 45 ms, allowed: 5%" in verdict


def test_the_share_that_may_miss_the_objective_is_given(
    body: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a server that takes longer for a fifth of the requests, by exponential times."""
    arguments = ["loadtest", "--body", str(body), "--users", "1", "--requests", "60", "--warmup-s", "0.1"]
    arguments += ["--seconds", "9", "--max-windows", "3"]
    with running_stub(0.02, 1, random=True) as stub:
        found = []
        for miss in ("0.01", "0.5"):
            main([*arguments, "--url", stub.url, "--slo-ms", "35", "--miss", miss])
            found.append(capsys.readouterr().out.splitlines()[-1].split("|")[-2])
    assert "allowed: 1%" in found[0]
    assert "objective missed" not in found[1]


def test_bodies_and_headers_are_sent_as_they_were_given(body: Path, photos: list[Path]) -> None:
    template = '{"instances": [{"b64": "{image}", "options": {"top": 3}}]}'
    with recorder() as (url, server):
        arguments = ["loadtest", "--url", url, "--body", str(body), "--template", template]
        arguments += ["--images", *map(str, photos[:2]), "--content-type", "application/x-test"]
        arguments += ["--header", "Authorization: Bearer a:b", "--header", "X-Two:2", *QUICK]
        main(arguments)
    expected = [
        {"instances": [{"b64": base64.b64encode(p.read_bytes()).decode(), "options": {"top": 3}}]}
        for p in photos[:2]
    ]
    sent = {content for _, content in server.requests}
    assert body.read_bytes() in sent
    assert [json.loads(content) for content in sent - {body.read_bytes()}] in (expected, expected[::-1])
    for headers, _ in server.requests:
        assert headers["Content-Type"] == "application/x-test"
        assert headers["Authorization"] == "Bearer a:b"
        assert headers["X-Two"] == "2"


def test_a_folder_of_photos_is_sent_as_files(photos: list[Path]) -> None:
    folder = photos[0].parent
    with recorder() as (url, server):
        given = ["--images", str(folder), "--content-type", "image/jpeg", "--users", "2", *QUICK[2:]]
        main(["loadtest", "--url", url, *given])
    assert {content for _, content in server.requests} <= {path.read_bytes() for path in folder.iterdir()}
    assert {headers["Content-Type"] for headers, _ in server.requests} == {"image/jpeg"}


def test_a_trace_is_sent_at_its_times(body: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stamps = [100.0, 100.0, 101.0, 101.5, 104.0]
    (trace := tmp_path / "trace").write_text("\n".join(map(str, stamps)) + "\n")
    arguments = ["loadtest", "--body", str(body), "--trace", str(trace), "--trace-scale", "2"]
    with running_stub(0.01, 8) as stub:
        assert main([*arguments, "--url", stub.url, "--slo-ms", "100"]) == 0
        log = stub.log()[1:]  # without the first request, which is no part of the load
    arrived = log[:, 0] - log[0, 0]
    off_s = np.abs(arrived - np.array([0.0, 0.0, 0.5, 0.75, 2.0]))
    assert np.median(off_s) < 0.05
    assert off_s.max() < 0.2  # the machine may pause for a moment
    assert re.search(r"valid; 2\.[01]\d? req/s within 100 ms", capsys.readouterr().out)


@pytest.mark.parametrize("senders", ["1", "2"])
def test_the_bodies_of_a_trace_are_sent_in_its_order(body: Path, tmp_path: Path, senders: str) -> None:
    (other := tmp_path / "other").write_bytes(b"other")
    order = [1, 0, 0, 1, 1, 0]
    lines = (f"{number / 10},{index}" for number, index in enumerate(order))
    (trace := tmp_path / "trace").write_text("\n".join(lines))
    with recorder() as (url, server):
        given = ["--body", str(body), "--body", str(other), "--trace", str(trace)]
        main(["loadtest", "--url", url, *given, "--senders", senders])
    sent = [content for _, content in server.requests[1:]]  # without the first request
    assert sent == [(body.read_bytes(), b"other")[index] for index in order]


def test_constant_arrivals_keep_their_distance(body: Path) -> None:
    arguments = ["loadtest", "--body", str(body), *SHORT, "--seconds", "1"]
    with running_stub(0.001, 8) as stub:
        main([*arguments, "--url", stub.url, "--rate", "40", "--arrivals", "constant"])
        gaps = np.diff(stub.log()[1:, 0])
    assert np.median(gaps) == pytest.approx(0.025, abs=0.002)
    assert np.quantile(gaps, [0.1, 0.9]) == pytest.approx([0.025, 0.025], abs=0.01)


def test_failures_under_load_are_counted_and_not_valid(
    body: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with recorder(good=20) as (url, _):
        assert main(["loadtest", "--url", url, "--body", str(body), *QUICK]) == 1
    out = capsys.readouterr().out
    assert re.search(r"not valid: ([1-9]\d*) failed and 0 timed out of \d+ \(status 503: \1\)", out)


def test_a_server_that_refuses_the_first_request_is_not_loaded(
    body: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with recorder(good=0) as (url, server):
        assert main(["loadtest", "--url", url, "--body", str(body), *QUICK]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert f"{url} answered the first request" in line
    assert "503: too busy" in line
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "arguments", "reason"),
    [
        (1, [], "nothing to send: give --body or --images"),
        (1, ["--body", "missing"], "missing: No such file"),
        (1, ["--images", "EMPTY"], "a folder without an image file"),
        (2, ["--images", "BODY", "--template", '{"image": ""}'], "{image} is missing"),
        (2, ["--body", "BODY", "--template", '{"image": "{image}"}'], "--images, which are missing"),
        (
            2,
            ["--images", "BODY", "--content-type", "image/png", "--template", '{"image": "{image}"}'],
            "--template: not used, as --content-type image/png sends the files themselves",
        ),
        (2, ["--body", "BODY", "--header", "no colon"], "expected 'Name: value', got 'no colon'"),
        (2, ["--body", "BODY", "--header", "content-type: text/plain"], "--content-type"),
        (2, ["--body", "BODY", "--rate", "9", "--users", "1"], "--users: not together with --rate"),
        (2, ["--body", "BODY", "--connections", "9"], "--connections: only together with --rate"),
        (2, ["--body", "BODY", "--arrivals", "constant"], "--arrivals: only together with --rate"),
        (2, ["--body", "BODY", "--rate", "9", "--burstiness", "2"], "only together with --arrivals"),
        (2, ["--body", "BODY", "--rate", "9", "--arrivals", "gamma"], "together with --burstiness"),
        (2, ["--body", "BODY", "--trace", "FILE", "--seconds", "1"], "--trace: not together with"),
        (2, ["--body", "BODY", "--trace-scale", "2"], "--trace-scale: only together with --trace"),
        (2, ["--body", "BODY", "--miss", "0.01"], "--miss: only together with --slo-ms"),
        (2, ["--body", "BODY", "--ca", "BODY"], "no certificates in PEM form"),
        (2, ["--body", "BODY", "--trace", "BODY"], "line 1: expected seconds"),
        (1, ["--body", "BODY"], "cannot be reached (Connection refused)"),
        (2, ["--body", "BODY", "--url", "10.0.0.7/v1"], "expected a URL like http://127.0.0.1:8000/"),
        (2, ["--body", "BODY", "--url", "http://localhost:80000"], "got 'http://localhost:80000'"),
    ],
)
def test_a_mistake_is_one_line(
    status: int,
    arguments: list[str],
    reason: str,
    body: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (empty := tmp_path / "empty").mkdir()
    url, paths = f"http://127.0.0.1:{free_port()}", {"BODY": str(body), "EMPTY": str(empty)}
    given = [paths.get(argument, argument) for argument in arguments]
    assert main(["loadtest", *([] if "--url" in given else ["--url", url]), *given]) == status
    [line] = capsys.readouterr().err.splitlines()
    assert reason in line


@pytest.mark.parametrize(
    "arguments",
    [["capacity", "--body", "BODY", "--slo-ms", "50", "--url"], ["predict", "BODY", "--url"]],
)
def test_what_is_no_url_is_one_line_of_other_commands(
    arguments: list[str], body: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(body) if argument == "BODY" else argument for argument in arguments]
    assert main([*given, "10.0.0.7/v1"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "expected a URL like http://127.0.0.1:8000/predict, got '10.0.0.7/v1'" in line
