"""Prompts as requests of OpenAI's chat API."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from litmeter.cli.chat import chat_bodies
from litmeter.cli.own import Sent, read_given, settings_of
from litmeter.errors import UsageError


def test_each_line_is_a_request_that_streams(tmp_path: Path) -> None:
    lines = [
        "Why is the sky blue?",
        '"two\\nlines"',
        "42",
        "",
        '{"prompt": "one\u2028line"}',
        '{"prompt": "old", "stream": false, "max_tokens": 3}',
    ]
    (file := tmp_path / "prompts.txt").write_text("\n".join(lines))
    bodies, content_type, _ = chat_bodies([file])
    requests = [json.loads(body) for body in bodies]
    assert content_type == "application/json"
    prompts = ["Why is the sky blue?", "two\nlines", "42"]
    assert [one["messages"] for one in requests[:-2]] == [
        [{"role": "user", "content": text}] for text in prompts
    ]
    assert all(one["stream"] and one["model"] for one in requests[:-1])
    assert requests[-2]["prompt"] == "one\u2028line"
    assert requests[-1] == {"model": "default", "prompt": "old", "stream": False, "max_tokens": 3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": 1}', "prompts:1: expected a prompt"),
        (b"\n", "no prompt"),
        (b"\xff", "UTF-8"),
        (None, "No such"),
    ],
)
def test_what_is_no_prompt_is_told_in_a_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "prompts"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        chat_bodies([file])


def test_requests_go_to_the_path_of_the_api(tmp_path: Path) -> None:
    (file := tmp_path / "prompts").write_text("hi")
    servers = ["serve --port {port}", "server.py"]
    paths = [one["path"] for one in settings_of(servers, Sent(chat=[file])).values()]
    assert paths == ["/v1/chat/completions", None]
    with pytest.raises(UsageError, match="--chat: not together with --body"):
        read_given(Sent(chat=[file], body=[file]))
