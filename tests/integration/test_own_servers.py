"""Servers by ways that no other test takes: URLs, one side that streams, a chat, `check` by params.yaml."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from litmeter.cli.main import main
from tests.support.asking import wait_for
from tests.support.servers import APIS, STUB_PARAMS, free_port, healthy, stub_command

GIVEN = ["--body", "a.json", "--users", "2", "--seconds", "4"]
STREAMING = """
import sys

import server

class Handler(server.Handler):
    def answer(self, status, content=b""):
        self.send_response(status)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in (b"3\\r\\none\\r\\n", b"3\\r\\ntwo\\r\\n", b"0\\r\\n\\r\\n"):
            self.wfile.write(piece)
            self.wfile.flush()

server.serve(sys.argv[1], Handler)
"""
CHAT = """
import time

import litserve


class Chat(litserve.LitAPI):
    def setup(self, device):
        pass

    def predict(self, request):
        for word in request.messages[-1].content.split():
            time.sleep(0.05)
            yield {"role": "assistant", "content": word}


if __name__ == "__main__":
    litserve.LitServer(Chat(spec=litserve.OpenAISpec()), accelerator="cpu").run(port=8000)
"""
API = """
import time

import litserve


class API(litserve.LitAPI):
    def setup(self, device):
        pass

    def predict(self, x):
        time.sleep(0.01)
        return x
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(APIS / "stub_server.py", tmp_path / "server.py")
    (tmp_path / "a.json").write_text('{"a": 1}')
    monkeypatch.chdir(tmp_path)


@contextmanager
def running(seconds: float) -> Iterator[str]:
    """The URL of a server that nobody of ours has started."""
    port = free_port()
    with subprocess.Popen([sys.executable, "server.py", str(port), str(seconds)]) as process:
        try:
            wait_for(lambda: healthy(f"http://127.0.0.1:{port}"))
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()


def test_servers_that_run_already_are_compared_by_their_urls_and_stay(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with running(0.01) as fast, running(0.2) as slow:
        assert main(["compare", f"fast={fast}", f"slow={slow}", *GIVEN, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [one["rank"] for one in found["configurations"]] == [1, 2]
        assert found["pairs"][0]["verdict"] == "slower"
        assert requests.get(slow, timeout=10).status_code == 200


def test_where_one_side_streams_no_rates_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    Path("streaming.py").write_text(STREAMING)
    servers = ["whole=python server.py {port}", "pieces=python streaming.py {port}"]
    assert main(["compare", *servers, *GIVEN, "--ready", "/", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    whole, pieces = found["configurations"]
    assert found["unit"] is None
    assert whole["ratio"] is pieces["ratio"] is None
    assert not whole["stream"]
    assert pieces["stream"]["chunks_rps"] > 0


@pytest.mark.parametrize(("first_ms", "status"), [("10000", 0), ("20", 1)])
def test_a_chat_keeps_to_an_objective_of_its_pieces_or_not(
    first_ms: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of LitServe's, whose first piece takes 50 ms."""
    Path("chat.py").write_text(CHAT)
    Path("prompts.txt").write_text("one two three\nfour five\n")
    objective = ["--first-ms", first_ms, "--piece-ms", "10000"]
    given = ["--chat", "prompts.txt", "--users", "1", "--seconds", "3", *objective]
    assert main(["loadtest", "chat.py", *given]) == status
    out = capsys.readouterr().out
    assert "TTFT" in out
    assert ("objective missed" in " ".join(out.split())) == bool(status)


def params(**serve: Any) -> str:
    return yaml.safe_dump(STUB_PARAMS | {"serve": serve})


def git(*words: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "core.hooksPath=/dev/null")
    subprocess.run(["git", *who, *words], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"params.yaml": params(**stub_command(0.01))}, {"params.yaml": params(**stub_command(0.2))}),
        (
            {"params.yaml": params(api="api:API", workers_per_device=1), "api.py": API},
            {"api.py": API.replace("0.01", "0.2")},
        ),
    ],
    ids=["command", "LitAPI"],
)
def test_check_serves_both_revisions_as_their_params_say(
    before: dict[str, str], after: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in {"bodies.jsonl": '{"input": 1}\n', **before}.items():
        Path(name).write_text(content)
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "fast")
    for name, content in after.items():
        Path(name).write_text(content)
    status = main(["check", "--against", "HEAD", "--users", "2", "--seconds", "12", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (status, found["rate"]) == (1, "slower")
    assert found["new_over_old"]["ratio"] < 0.5
