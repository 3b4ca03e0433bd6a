"""Requests of OpenAI's chat API, made of prompts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from litmeter.errors import UsageError
from litmeter.load.bodies import Bodies

CHAT_PATH = "/v1/chat/completions"
MODEL = "default"
"""The model that is named, where a prompt names none: LitServe takes any name."""


def chat_bodies(files: Sequence[Path]) -> Bodies:
    """A request that streams for each line of ``files``: a prompt, as text or a string of JSON, or an object.

    An object is a request with ``messages`` or ``prompt``; its keys prevail. Raise UsageError for any other
    object, and for a file that cannot be read or has no line.
    """
    found = []
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8").split("\n")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text in UTF-8"
            raise UsageError(f"--chat {file}: {reason}") from error
        for number, line in enumerate(lines, 1):
            if line.strip():
                found.append({"model": MODEL, "stream": True, **_request(line, f"{file}:{number}")})
    if not found:
        raise UsageError(f"--chat {files[0]}: no prompt in it")
    return Bodies([json.dumps(request).encode() for request in found], "application/json")


def _request(line: str, place: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        value = line
    if isinstance(value, dict):
        if not {"messages", "prompt"} & value.keys():
            raise UsageError(f"--chat {place}: expected a prompt, or a request with messages or prompt")
        return value
    content = value if isinstance(value, str) else line
    return {"messages": [{"role": "user", "content": content}]}
