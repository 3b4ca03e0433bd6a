"""What `litmeter init` writes of what it has found, without a server."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from litmeter.cli import init
from litmeter.cli.own import OWN, Sent, own_server
from litmeter.kinds.lit_api import LitApi
from tests.support.project import ROOT

PEERS = ("bentoml", "fastapi", "litserve", "mosec", "ray")
EXAMPLES = {
    "text": (["sentences.tsv", "server.py"], True),
    "torch": (["server.py"], True),
    "peers": (["model.py", "requirements.txt", *(f"serve_{peer}.py" for peer in PEERS)], False),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_have_what_is_written(name: str) -> None:
    files, candidate = EXAMPLES[name]
    assert (ROOT / f"examples/{name}/dvc.yaml").read_text() == init.dvc_text(files, candidate=candidate)


@pytest.mark.parametrize(
    ("spec", "api", "folder"),
    [
        ("server.py:A", "server:A", ""),
        ("src/my-server.py:A", "my-server:A", "src"),
        ("src/package/server.py:A", "package.server:A", "src"),
        ("package.server:A", "package.server:A", ""),
    ],
)
def test_a_file_is_imported_from_the_folder_of_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, api: str, folder: str
) -> None:
    (tmp_path / "src/package").mkdir(parents=True)
    (tmp_path / "src/package/__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    read = own_server(spec, [], OWN, "")
    assert isinstance(read, LitApi)
    assert (read.api, read.folder) == (api, str(tmp_path / folder))


def test_the_next_commands_are_those_that_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.prefix) / "bin"))
    usual = list(init.next_commands())
    assert usual[-1] == "dvc repro"
    monkeypatch.setattr(init, "find_spec", lambda name: None)  # DVC is not installed
    monkeypatch.setenv("PATH", "")
    needed = [f". {sys.prefix}/bin/activate", "pip install 'litmeter[dvc]'"]
    assert list(init.next_commands()) == [*needed, *usual]


def test_each_configuration_is_written_as_a_whole(tmp_path: Path) -> None:
    server = own_server("server:A", ["api_kwargs.size=small", "workers_per_device=3"], OWN, "")
    assert isinstance(server, LitApi)
    found = server.worth_comparing("cpu", batches=True)
    text = init.params_text(found, Path("bodies"), OWN, 0.01)
    content = yaml.safe_load(text)
    assert {**content["experiments"], "candidate": content["serve"]} == found
    assert init.block(found).count("size: small") == len(found) == 4
    assert found["candidate"]["workers_per_device"] == 3
    (path := tmp_path / "params.yaml").write_text(text)
    apply_overrides(path, [f"serve.{key}={found['candidate'][key]}" for key in LitApi.knobs])  # as -S does
    assert path.read_text() == text


def test_time_limits_grow_with_the_time_of_an_answer() -> None:
    found = {"server": {"command": "serve {port}"}}
    quick, slow = (
        yaml.safe_load(init.params_text(found, Path("bodies"), OWN, answer_s)) for answer_s in (0.001, 1.0)
    )
    assert quick["comparison"]["seconds"] == 80.0
    assert slow["load"]["timeout_s"] > 8  # all users wait for one worker
    assert slow["objective"]["slo_ms"] == 10_000
    assert slow["comparison"]["seconds"] > 8 * 7


def test_no_value_of_a_header_is_written_but_the_variable_that_has_it() -> None:
    given = ["X-Api-Key: a secret", "Authorization: Bearer ${TOKEN}"]
    text = init.params_text(
        {"server": {"command": "serve {port}"}}, Path("bodies"), Sent(header=given), answer_s=0.01
    )
    assert "secret" not in text
    headers = {"X-Api-Key": "${HEADER_X_API_KEY}", "Authorization": "Bearer ${TOKEN}"}
    assert yaml.safe_load(text)["load"]["headers"] == headers
