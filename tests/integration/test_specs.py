"""LitAPIs with OpenAI's specs and async ones: where they take requests, examples of these, what is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import requests

from litmeter.cli.main import main
from litmeter.cli.openapi import example_body
from litmeter.errors import LoadError
from litmeter.kinds.configuration import Preflight
from litmeter.kinds.lit_api import LitApi
from litmeter.kinds.preflight import check_apis
from litmeter.load.bodies import Bodies
from litmeter.params import load_params
from litmeter.paths import MODEL
from tests.support.servers import APIS, litserve_alone, running_server

JSON = Bodies([b"{}"], "application/json")
CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"


def settings(name: str, **others: Any) -> LitApi:
    return LitApi(api=f"lit_apis:{name}", folder=str(APIS), **others)


def answer_to_example(target: str) -> Any:
    """What the server answers to the example that is made up for it."""
    [content], kind, _ = example_body(target)
    answer = requests.post(target, data=content, headers={"Content-Type": kind}, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(
    ("name", "others", "path"),
    [
        ("Chat", {}, CHAT),
        ("Chat", {"workers_per_device": 2, "path": "/chat/completions"}, "/chat/completions"),
        ("AsyncChat", {}, CHAT),
        ("Embed", {}, EMBEDDINGS),
        ("Embed", {"max_batch_size": 4, "batch_timeout_s": 0.01}, EMBEDDINGS),
    ],
)
def test_requests_go_where_the_spec_takes_them(name: str, others: dict[str, Any], path: str) -> None:
    with running_server(MODEL, settings(name, **others)) as server:
        assert server.target == server.url + path
        answer = answer_to_example(server.target)
    if name == "Embed":
        assert len(answer["data"][0]["embedding"]) == 4
    else:
        assert answer["choices"][0]["message"]["content"] == "text"


def test_an_async_api_is_served_where_it_is_told_to() -> None:
    with running_server(MODEL, settings("Awaits", path="/squares")) as server:
        assert server.target == f"{server.url}/squares"
        assert requests.post(server.target, json={"input": 3}, timeout=30).json() == {"output": 9}


CHATTED = {"model": "m", "messages": [{"role": "user", "content": "text"}]}
EMBEDDED = {"model": "m", "input": "text"}


@pytest.mark.parametrize(
    ("name", "feature", "body"),
    [("Chat", "spec", CHATTED), ("Embed", "spec", EMBEDDED), ("Awaits", "enable_async", {"input": 2})],
)
def test_the_check_finds_no_fault_and_says_what_is_not_available(
    name: str, feature: str, body: dict[str, Any]
) -> None:
    """With a spec, the pipeline runs in-process."""
    configurations = {"litserve": settings(name), "direct": settings(name, transport="direct")}
    bodies = JSON._replace(contents=[json.dumps(body).encode()])
    found = check_apis(configurations, Preflight(bodies, "cpu", 60.0))
    assert found["litserve"].fault == ""
    assert (feature == "spec") == (found["litserve"].answer_s is not None)
    assert (feature in found["litserve"].unavailable) == (feature != "spec")
    assert "transport: direct serves no LitAPI with" in found["direct"].fault
    assert feature in found["direct"].fault


def test_async_and_batches_exclude_each_other() -> None:
    found = check_apis({"it": settings("Awaits", max_batch_size=4)}, Preflight(JSON, "cpu", 60.0))
    assert "LitServer: ValueError: Async batching is not supported" in found["it"].fault


def test_examples_are_answered_by_litserve_alone() -> None:
    named = ("Validated", "Typed", "FormModel")
    with litserve_alone(1, *(f"lit_apis:{name}" for name in (*named, "Square", "Upload"))) as url:
        for name in named:
            assert answer_to_example(f"{url}/{name}")
        with pytest.raises(LoadError, match="does not say what POST /Square takes"):
            example_body(f"{url}/Square")
        with pytest.raises(LoadError, match="--form request=@FILE"):
            example_body(f"{url}/Upload")


def test_two_settings_are_compared_by_an_example(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(APIS)
    servers = ("one=lit_apis:Chat", "two=lit_apis:Chat workers_per_device=2")
    assert main(["compare", *servers, "--users", "2", "--seconds", "10", "--json"]) == 0
    said = capsys.readouterr()
    for one in json.loads(said.out)["configurations"]:
        assert one["rate_rps"] > 0
        assert one["failed"] == 0
    assert '"role": "user"' in " ".join(said.err.split())


@pytest.mark.parametrize(("name", "given"), [("Chat", ()), ("Awaits", ("--body", "a.json"))])
def test_a_project_has_neither_batches_nor_the_direct_transport(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, given: tuple[str, ...]
) -> None:
    shutil.copy(APIS / "lit_apis.py", tmp_path)
    (tmp_path / "a.json").write_text('{"input": 2}')
    monkeypatch.chdir(tmp_path)
    assert main(["init", f"lit_apis.py:{name}", *given]) == 0
    found = load_params().configurations().values()
    assert {(one.max_batch_size, one.transport) for one in found} == {(1, "litserve")}
