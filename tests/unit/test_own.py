"""Servers of one's own on the command line: what is read of them, and which mistakes are named."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from litmeter.cli.form import form_bodies
from litmeter.cli.own import Own, project, read_given, settings_of
from litmeter.errors import UsageError
from litmeter.kinds.configuration import Configuration
from litmeter.load.bodies import Bodies
from litmeter.params import Params
from litmeter.settings import PARAMS_FILE


def opened(*servers: str, **own: object) -> AbstractContextManager[Params]:
    """The project for these servers, which are sent this file, unless ``own`` says otherwise."""
    given = Own(**({} if "form" in own else {"body": [Path(__file__)]}) | own)
    settings = settings_of(servers, given)
    comparison = {"reference": next(iter(settings)), "users": 8, "seconds": 10.0}
    return project({"experiments": settings, "comparison": comparison}, given)


def read(*servers: str, **own: object) -> dict[str, Configuration]:
    with opened(*servers, **own) as params:
        return params.experiments


def test_an_api_with_keys_and_arguments() -> None:
    spec = "eight=server:MyAPI max_batch_size=8 batch_timeout_s=1e-2 api_kwargs.size=small api_kwargs.n=3"
    experiments = read("server:MyAPI", spec)
    assert list(experiments) == ["server_myapi", "eight"]
    serve = experiments["eight"]
    assert (serve.kind, serve.max_batch_size, serve.batch_timeout_s) == ("api", 8, 0.01)
    assert serve.api_kwargs == {"size": "small", "n": 3}
    assert serve.folder == str(Path.cwd())


@pytest.mark.parametrize(
    ("servers", "names"),
    [
        (["server.py", "server.py max_batch_size=8"], ["server", "max_batch_size_8"]),
        (["python a.py --port {port}", "python b.py --port {port}"], ["a", "b"]),
        (["vllm serve x {port}", "vllm serve x {port} --fast"], ["vllm", "fast"]),
        (["http://10.0.0.7/v1", "http://10.0.0.8/v1"], ["http_10_0_0_7_v1", "http_10_0_0_8_v1"]),
        (["m:A", "m:A", "m_a=m:A"], ["m_a_2", "m_a_3", "m_a"]),
        (["candidate.py", "7.py"], ["server_candidate", "server_7"]),
    ],
)
def test_a_server_is_named_by_what_runs_or_by_what_differs(servers: list[str], names: list[str]) -> None:
    assert list(settings_of(servers, Own())) == names


def test_commands_are_kept_as_they_are() -> None:
    commands = ["python a.py --port={port}", "sh 'b c' {port}"]
    experiments = read(commands[0], f"x={commands[1]}", path="/v1", ready="/up")
    assert [one.command for one in experiments.values()] == commands
    assert {(one.kind, one.path, one.ready) for one in experiments.values()} == {("command", "/v1", "/up")}


@pytest.mark.parametrize(
    ("servers", "said"),
    [
        (["a=server:MyAPI", "a=server:MyAPI"], "named a"),
        (["server:MyAPI fast"], "'fast'"),
        (["server:MyAPI max_batch=8"], "server_myapi.max_batch: unknown key"),
        (["server:MyAPI max_batch_size=0"], "server_myapi.max_batch_size: got 0"),
        (["server:MyAPI fast_queue=true"], "server_myapi.fast_queue: LitServe"),
        (["x=./a --port 8000"], r"\{port} is missing"),
        (["x=python 'a.py {port}"], "No closing quotation"),
    ],
)
def test_mistakes_are_named(servers: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read(*servers)


def test_several_bodies_are_sent_in_their_order_with_one_content_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / name for name in ("b.json", "a.jsonl")]
    for file, content in zip(files, ("0", "1\n2"), strict=True):
        file.write_text(content)
    here = Path.cwd()
    with opened("m:A", body=files) as params:
        assert params.bodies() == Bodies([b"0", b"1", b"2"], "application/json")
        assert Path.cwd() != here
    assert Path.cwd() == here
    with pytest.raises(UsageError, match="--body no-such"), opened("m:A", body=[Path("no-such.json")]):
        pass
    (picture := tmp_path / "b.jpg").write_bytes(b"0")
    mixed = Own(body=[*files, picture])
    with pytest.raises(UsageError, match="several content types"):
        read_given(mixed)
    with opened("m:A", form=[f"image=@{picture}"]) as params:
        assert params.bodies() == form_bodies([f"image=@{picture}"])
    with opened("m:A", body=files, header=["X-Key: a"], timeout_s=90) as params:
        assert (params.bodies().headers, params.load.timeout_s) == ({"X-Key": "a"}, 90)
    monkeypatch.setenv("KEY", "a secret")
    with opened("m:A", body=files, header=["X-Key: of ${KEY}"]) as params:
        assert params.bodies().headers == {"X-Key": "of a secret"}
        assert "secret" not in PARAMS_FILE.read_text() + str(params)
    monkeypatch.setenv("KEY", "a secret\n")
    with (
        pytest.raises(UsageError, match="header X-Key: ") as refused,
        opened("m:A", body=files, header=["X-Key: ${KEY}"]),
    ):
        pass
    assert "secret" not in str(refused.value)
    monkeypatch.delenv("KEY")
    with (
        pytest.raises(UsageError, match="KEY must be set"),
        opened("m:A", body=files, header=["X-Key: ${KEY}"]),
    ):
        pass
    with pytest.raises(UsageError, match="--header: expected"), opened("m:A", body=files, header=["a"]):
        pass
    named = mixed.model_copy(update={"content_type": "text/plain"})
    assert read_given(named).content_type == "text/plain"
