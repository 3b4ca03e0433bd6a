"""Servers that stream by each of LitServe's loops, measured as they are."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from litserve.loops.continuous_batching_loop import DefaultContinuousBatchingLoop

from litmeter.cli.main import main
from litmeter.kinds.configuration import Preflight
from litmeter.kinds.script import Script
from litmeter.kinds.server import Start
from litmeter.load import LoadPlan, load_generator
from litmeter.load.bodies import Bodies
from litmeter.measure.figures import stream_rates, stream_times_ms
from litmeter.measure.subjects import pipelines_of
from litmeter.measure.turn import Turn, Work
from litmeter.stats.records import FAILED, OK, LoadRecord
from litmeter.stats.streams import CHUNKS, EVENTS, READS

FIRST_S, PIECE_S, PIECES = 0.05, 0.01, 8
SERVER = """
import asyncio
import time

import litserve as ls
from litserve.loops.continuous_batching_loop import (
    ContinuousBatchingLoop,
    DefaultContinuousBatchingLoop,
    Output,
)
from litserve.specs.openai import OpenAISpec
from litserve.utils import LitAPIStatus


class Plain(ls.LitAPI):
    def setup(self, device):
        pass

    def decode_request(self, request):
        return request["pieces"]

    def predict(self, pieces):
        time.sleep(0.05)
        for number in range(pieces):
            time.sleep(0.01 * (number > 0))
            if pieces == 3 and number == 2:
                raise RuntimeError("after two pieces")
            yield f"piece{number};"

    def encode_response(self, output):
        yield from output


class Batched(Plain):
    def predict(self, batch):
        for piece in Plain.predict(self, max(batch)):
            yield [piece] * len(batch)


class Async(Plain):
    async def decode_request(self, request):
        return request["pieces"]

    async def predict(self, pieces):
        await asyncio.sleep(0.05)
        for number in range(pieces):
            await asyncio.sleep(0.01 * (number > 0))
            yield f"piece{number};"

    async def encode_response(self, output):
        async for piece in output:
            yield piece


class Stepped(ls.LitAPI):
    def setup(self, device):
        self.left = {}

    def add_request(self, uid, request):
        self.left[uid] = request["pieces"]

    def has_capacity(self):
        return True

    def has_active_requests(self):
        return bool(self.left)

    def step(self, outputs):
        time.sleep(0.01)
        found = []
        for uid, left in list(self.left.items()):
            status = LitAPIStatus.OK if left else LitAPIStatus.FINISH_STREAMING
            found.append(Output(uid, "piece;" if left else "", status))
            if left:
                self.left[uid] -= 1
            else:
                del self.left[uid]
        return found

    def encode_response(self, output):
        return output

    def predict(self, inputs, generated):
        return ["piece;"] * len(inputs)

    def has_finished(self, uid, token, most):
        return True


class Chat(ls.LitAPI):
    def setup(self, device):
        pass

    def predict(self, request):
        pieces = int(request.messages[-1].content)
        if pieces == 1:
            raise RuntimeError("before the first piece")
        time.sleep(0.05)
        for number in range(pieces):
            time.sleep(0.01 * (number > 0))
            yield {"role": "assistant", "content": f"piece{number};", "completion_tokens": 2 * pieces}


APIS = {
    "plain": lambda: Plain(stream=True),
    "batched": lambda: Batched(stream=True, max_batch_size=2, batch_timeout=0.05),
    "async": lambda: Async(stream=True, enable_async=True),
    "chat": lambda: Chat(spec=OpenAISpec()),
    "stepped": lambda: Stepped(stream=True, loop=ContinuousBatchingLoop()),
    "default": lambda: Stepped(stream=True, loop=DefaultContinuousBatchingLoop()),
}

if __name__ == "__main__":
    import sys

    ls.LitServer(APIS[sys.argv[1]](), accelerator="cpu").run(port=8000)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "server.py").write_text(SERVER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def body_of(api: str, pieces: int) -> bytes:
    chat = {"model": "m", "stream": True, "messages": [{"role": "user", "content": str(pieces)}]}
    return json.dumps(chat if api == "chat" else {"pieces": pieces}).encode()


def load(url: str, body: bytes, users: int, requests: int = 6) -> LoadRecord:
    plan = LoadPlan(users, requests, 0.0, 0.5, 5.0, 3, 20.0, 0)
    with load_generator([body], "application/json") as sender:
        return sender.run(url, plan)


def loaded(api: str, users: int, pieces: int = PIECES) -> LoadRecord:
    script = Script(script=f"python server.py {api}", folder=str(Path.cwd()))
    with script.starting(Start("cpu", 20.0)) as server:
        server.ready()
        return load(server.target, body_of(api, pieces), users)


@pytest.mark.parametrize(
    ("api", "unit"), [("plain", CHUNKS), ("batched", CHUNKS), ("async", CHUNKS), ("chat", EVENTS)]
)
def test_pieces_of_each_loop_are_found_and_timed(api: str, unit: int) -> None:
    record = loaded(api, users=2)
    assert set(record.status.tolist()) == {OK}
    assert set(record.streams.unit.tolist()) == {unit}
    assert set(record.streams.count.tolist()) == {PIECES}
    times = stream_times_ms(record)
    assert min(times["first"]) > 1000 * FIRST_S
    assert np.median(times["gap"]) > 500 * PIECE_S
    tokens = 2 if api == "chat" else 1
    assert np.median(times["piece"]) > 500 * PIECE_S / tokens
    waits_for_another = api in ("plain", "chat")  # a worker finishes an answer before it begins the next
    whole_ms = 1000 * (FIRST_S + (PIECES - 1) * PIECE_S)
    if waits_for_another:
        assert np.median(times["first"]) > whole_ms + 1000 * FIRST_S
    rates = stream_rates(record)
    assert ("tokens_rps" in rates) == (api == "chat")
    if api == "chat":
        assert set(record.streams.tokens.tolist()) == {2 * PIECES}


def test_pieces_of_a_loop_with_a_step_of_its_own_are_timed_and_one_that_cannot_run_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = loaded("stepped", users=2)
    assert set(record.streams.count.tolist()) == {PIECES}
    assert np.median(stream_times_ms(record)["gap"]) > 500 * PIECE_S
    own, default = (Script(script=f"python server.py {api}").ran().text for api in ("stepped", "default"))
    assert "ContinuousBatchingLoop" in own
    assert "cannot run" not in own
    broken = DefaultContinuousBatchingLoop.add_request.__code__.co_argcount == 5  # as in LitServe 0.2.19
    assert ("DefaultContinuousBatchingLoop, which this LitServe cannot run" in default) == broken


def test_what_fails_is_told_apart() -> None:
    """LitServe ends an answer well whose generator has raised, unless its spec says so in an event."""
    assert loaded("plain", 1, pieces=3).streams.count.tolist()[0] == 2
    assert set(loaded("plain", 1, pieces=0).status.tolist()) == {FAILED}
    failed = loaded("chat", 1, pieces=1)
    assert set(failed.status.tolist()) == {FAILED}
    assert set(failed.code.tolist()) == {200}


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server that sends the same bytes to everybody, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        listener.shutdown(socket.SHUT_RDWR)


def test_an_answer_without_a_length_or_chunks_comes_in_reads_and_one_that_is_cut_off_fails() -> None:
    with answering(b"HTTP/1.1 200 OK\r\n\r\nabc") as url:
        record = load(url, b"{}", 1)
    assert set(record.streams.unit.tolist()) == {READS}
    assert set(record.status.tolist()) == {OK}
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    with answering(head + b"9\r\ndata: a\n\n\r\n") as url:
        assert set(load(url, b"{}", 1).status.tolist()) == {FAILED}


@pytest.mark.smoke
def test_streams_are_compared_by_their_bytes_and_those_that_end_early_are_counted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The generator of "two" raises after two of three pieces."""
    (folder / "a.json").write_bytes(body_of("plain", 3))
    servers = ["one=python server.py async", "two=python server.py plain"]
    options = ["--body", "a.json", "--users", "2", "--seconds", "15", "--path", "/predict"]
    assert main(["compare", *servers, *options, "--header", "X-Key: a", "--timeout-s", "60"]) == 0
    out = capsys.readouterr().out
    assert {"times one (bytes)", "times the bytes/s", "TTFT p95", "chunks/s"} <= {
        cell.strip() for cell in out.split("|")
    }
    [short, answers] = re.findall(r"Ended early: (\d+) of\s+(\d+)\s+answers of two", out)[0]
    assert 0 < int(answers) <= int(short)


@pytest.mark.parametrize(("api", "size"), [("plain", 1), ("batched", 2), ("chat", 1)])
def test_streams_run_in_process_as_litserves_loops_run_them(api: str, size: int) -> None:
    script = Script(script=f"python server.py {api}", folder=str(Path.cwd()))
    bodies = Bodies([body_of(api, PIECES)], "application/json")
    [checked] = Script.checked({"a": script}, Preflight(bodies, "cpu", 20.0)).values()
    assert (checked.fault, checked.unavailable) == ("", "")
    [subject] = pipelines_of({"a": script.in_process}, "cpu", bodies, 8).values()
    with subject.start() as ready:
        ready()
        done = subject.load(Turn("a", Work("pipeline", size, 1.0)), lambda: None)
    whole_s = FIRST_S + (PIECES - 1) * PIECE_S
    assert 0.2 * size / whole_s < done.blocks.mean() < size / whole_s
    assert 1000 * FIRST_S < done.first_ms < 1000 * whole_s


def test_what_the_first_piece_waits_for_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "a.json").write_bytes(body_of("plain", PIECES))
    brief = ("--body", "a.json", "--users", "4", "--seconds", "60")  # in less, none may start in-process
    assert main(["compare", "a=python server.py plain", *brief, "--json", "--report", "a.html"]) == 0
    assert json.loads(capsys.readouterr().out)["unit"] == "bytes"
    text = " ".join((folder / "a.html").read_text().split())
    found = re.search(r"of ([\d.]+) ms to the first piece .* the other ([\d.]+) ms .* mostly waiting", text)
    assert found, text
    first_ms, waited_ms = map(float, found.groups())
    others_ms = 3 * 1000 * (FIRST_S + (PIECES - 1) * PIECE_S)
    assert 0.5 * first_ms < waited_ms < first_ms
    assert 0.7 * others_ms < waited_ms < 4 * others_ms


def test_a_first_piece_that_comes_later_fails_a_check(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole answer takes as long as before."""
    (folder / "a.json").write_bytes(body_of("async", 2))
    early = SERVER.replace("sleep(0.05)", "sleep(0.01)").replace("sleep(0.01 *", "sleep(0.2 *")
    (folder / "server.py").write_text(early)
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "first"]):
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        subprocess.run(["git", *who, *words], cwd=folder, check=True)
    (folder / "server.py").write_text(SERVER.replace("sleep(0.05)", "sleep(0.2)"))
    brief = ("--body", "a.json", "--users", "8", "--seconds", "20", "--json")
    assert main(["check", "python server.py async", "--against", "main", *brief]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["unit"], found["p95_of"], found["p95"]) == ("bytes", "first piece", "slower")
    assert found["new_over_old"]["p95_ratio"] > 1.5  # idle: some 10
