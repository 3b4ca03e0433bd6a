"""A project for a server of one's own: what is written, by what a try of it shows, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from litmeter.cli import init
from litmeter.cli.form import form_bodies
from litmeter.cli.main import main
from litmeter.kinds.command import Command
from litmeter.kinds.lit_api import LitApi
from litmeter.params import Params, load_params
from litmeter.settings import CANDIDATE
from litmeter.stages.machine import main as check_all
from tests.support.processes import descendants_mentioning, limited_inotify
from tests.support.servers import APIS

SERVER = """
import random
import time
from pathlib import Path

import litserve
from pydantic import BaseModel

from helper import offset


class Number(BaseModel):
    input: float


class Table(litserve.LitAPI):
    def setup(self, device):
        self.table = Path("weights/table.txt").read_bytes()
        self.parts = [path.read_bytes() for path in Path("parts").iterdir()]

    def decode_request(self, request: Number):
        return request.input

    def predict(self, x):
        time.sleep(0.02)
        return [one + offset for one in x] if isinstance(x, list) else x + offset

    def encode_response(self, output):
        return {"output": output}


class Single(Table):
    def predict(self, x):
        return [sum(x) / len(x)] * len(x) if isinstance(x, list) else x


class Batch(Table):
    def predict(self, x):
        return [one + offset for one in x]


class Neither(Table):
    def predict(self, x):
        raise ValueError("no weights")


class Sampling(Table):
    def predict(self, x):
        return [random.random() for _ in x] if isinstance(x, list) else random.random()


class Photo(Table):
    def decode_request(self, request):
        return len(request["image"].file.read()) + int(request["size"])


class Stream(litserve.LitAPI):
    def __init__(self):
        super().__init__(stream=True)

    def setup(self, device):
        self.table = Path("weights/table.txt").read_bytes()

    def predict(self, x):
        yield from range(3)

    def encode_response(self, output):
        for one in output:
            yield str(one)
"""
COMMAND = """
import sys
import stub_server

class Handler(stub_server.Handler):
    def status(self):
        return 200 if b"input" in self.body else 422

open("weights/table.txt").read()
stub_server.serve(sys.argv[1], Handler)
"""
READ = ["helper.py", "parts/0", "parts/1", "server.py", "weights/table.txt"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a server without a project."""
    files = {
        "parts/0": "",
        "parts/1": "",
        "server.py": SERVER,
        "helper.py": "offset = 1",
        "plain.py": COMMAND,
        "stub_server.py": (APIS / "stub_server.py").read_text(),
        "weights/table.txt": "1",
    }
    files |= {"a.json": '{"input": 1}', "b.json": '{"input": 2}', "wrong.json": '{"output": 2}'}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def initialised(*arguments: str) -> Params:
    """The project that `litmeter init` writes: the first stage finds nothing wrong in it."""
    assert main(["init", "--body", "a.json", *arguments]) == 0
    check_all()
    return load_params()


def dependencies(stage: str = "comparison") -> list[str]:
    """Those of a stage that are no results."""
    found: list[str] = yaml.safe_load(Path("dvc.yaml").read_text())["stages"][stage]["deps"]
    return [path for path in found if path not in ("metrics/machine.json", "${load.bodies}")]


def sizes(params: Params) -> dict[str, int]:
    return {name: one.max_batch_size for name, one in params.configurations().items()}


def files_in(folder: Path) -> dict[Path, bytes]:
    """All but what Python keeps of a module that was imported."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path: path.read_bytes() for path in found}


@pytest.mark.smoke
def test_a_project_has_settings_with_batches_where_it_takes_these(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(".gitignore").write_text("own\n\n.venv\nlast")
    params = initialised("server.py:Table", "--body", "b.json")
    assert sizes(params) == {"single": 1, "batched": 4, "direct": 1, CANDIDATE: 4}
    assert params.experiments["single"] == LitApi(api="server:Table")
    assert [path.read_text() for path in sorted(Path("bodies").iterdir())] == ['{"input": 1}', '{"input": 2}']
    assert dependencies() == dependencies("candidate") == READ
    ignored = Path(".gitignore").read_text().splitlines()
    assert ignored[:4] == ["own", "", ".venv", "last"]
    assert sorted(set(init.IGNORED) - {".venv"}) == sorted(ignored[4:])
    said = capsys.readouterr().out
    assert all(name in said for name in (*sizes(params), *READ, "dvc repro"))
    subprocess.run(["git", "init", "-q"], check=True)
    dvc = str(Path(sys.prefix) / "bin/dvc")
    subprocess.run([dvc, "init", "-q"], check=True)
    shown = subprocess.run([dvc, "stage", "list"], check=True, capture_output=True, text=True).stdout
    names = [line.split()[0] for line in shown.splitlines()]
    alone = [f"benchmark@{name}" for name in params.experiments]
    assert names == ["machine", *alone, "candidate", "comparison", "report"]
    subprocess.run([dvc, "dag"], check=True, capture_output=True)


@pytest.mark.parametrize("name", ["Single", "Batch"])
def test_a_lit_api_that_takes_no_batches_or_these_alone_gets_no_other_settings(
    folder: Path, name: str
) -> None:
    params = initialised(f"server:{name} workers_per_device=3", "--body", "b.json")
    assert {size == 1 for size in sizes(params).values()} == {name == "Single"}
    assert len(set(params.configurations().values())) == len(params.configurations())
    assert params.serve.workers_per_device == 3  # as it was given


def test_a_stream_is_tried_behind_its_server(folder: Path) -> None:
    params = initialised("server.py:Stream")
    assert sizes(params) == {"single": 1, CANDIDATE: 1}
    assert "weights/table.txt" in dependencies()


def test_files_of_a_server_that_lies_elsewhere_are_found(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    there = Path(os.path.relpath(folder))
    assert main(["init", f"{there}/server.py:Table", "--body", str(there / "a.json")]) == 0
    assert dependencies() == [str(there / name) for name in READ]


def test_of_a_command_there_is_one_configuration(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("dvc.lock").write_text("")  # is none of the files that are written
    params = initialised("python plain.py {port}", "--ready", "/up", "--users", "4")
    expected = Command(command="python plain.py {port}", ready="/up")
    assert params.configurations() == {"server": expected}
    assert (params.load.users, params.comparison.users) == ((1, 4), 4)
    assert dependencies() == ["plain.py", "stub_server.py", "weights/table.txt"]
    stages = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]
    assert CANDIDATE not in stages
    assert "serve" not in stages["comparison"]["params"] + stages["report"]["params"]
    assert "#   command: python plain.py {port} --option" in Path("params.yaml").read_text()


def test_a_script_is_compared_with_more_workers(folder: Path) -> None:
    run = "\nif __name__ == '__main__':\n    litserve.LitServer(Single()).run(port=8000)\n"
    (folder / "script.py").write_text(SERVER + run)
    params = initialised("script.py")
    assert {name: one.changed() for name, one in params.experiments.items()} == {
        "server": {},
        "workers_2": {"workers_per_device": 2},
    }
    assert params.objective.configurations == ("server",)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.py:Table", "--body", "a.json"], "nowhere:Table: import: ModuleNotFoundError"),
        (["server.py:Neither", "--body", "a.json"], "server:Neither: predict at batch size 1: ValueError"),
        (["server.py:Sampling", "--body", "a.json"], "'server:Sampling check_answers=false'"),
        (["server.py", "--body", "a.json"], "before it started a server"),
        (["server.py:Table", "--body", "wrong.json"], "body 1 is refused with status 422"),
        (["server.py:Table", "--body", "none.json"], "--body none.json: No such file"),
        (["server.py:Stream"], "--body: missing; a file with a request's body, JSON lines, or a folder"),
        (["server.py:Stream"], "/openapi.json does not say what POST /predict takes"),
        (["python plain.py {port}"], "/openapi.json of http://127.0.0.1:"),
        (["server.py:Photo", "--form", "image=@none.jpg"], "none.jpg: No such file"),
        (["--body", "a.json"], "litmeter init"),
        (["python plain.py {port}", "--body", "wrong.json"], "answered a request"),
    ],
)
def test_what_cannot_be_used_is_a_line_and_leaves_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    before = files_in(folder)
    assert main(["init", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
    assert files_in(folder) == before
    assert descendants_mentioning("plain.py") == []


def test_nothing_is_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("params.yaml", "dvc.yaml", "plots.html", "bodies"):
        Path(name).write_text("own")
        before = files_in(folder)
        assert main(["init", "server.py:Table", "--body", "a.json"]) == 2
        assert capsys.readouterr().err.startswith(f"litmeter: {name}: ")
        assert files_in(folder) == before
        Path(name).unlink()


def test_bodies_that_are_part_of_the_project_stay_where_they_are(folder: Path) -> None:
    Path("bodies").mkdir()
    Path("bodies/a.json").write_text('{"input": 1}')
    command = ["init", "python plain.py {port}", "--ready", "/", "--body", "bodies"]
    assert main(command) == 0
    assert load_params().load.bodies == "bodies"
    assert [path.name for path in Path("bodies").iterdir()] == ["a.json"]


def test_a_body_is_made_up_for_a_server_that_says_what_it_takes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "server.py:Table"]) == 0
    assert '{"input": 1}' in capsys.readouterr().err
    assert Path("bodies/000000.json").read_text() == '{"input": 1}'
    assert load_params().bodies().contents == [b'{"input": 1}']
    assert dependencies() == READ


def test_a_form_is_kept_with_its_content_type(folder: Path) -> None:
    fields = ["image=@weights/table.txt", "size=3"]
    assert main(["init", "server.py:Photo", *(word for one in fields for word in ("--form", one))]) == 0
    params = load_params()
    assert params.bodies() == form_bodies(fields)
    assert params.load.content_type == form_bodies(fields).content_type
    assert len(list(Path("bodies").iterdir())) == 1
    check_all()


def test_files_that_were_not_seen_at_the_limit_of_watches_are_said(folder: Path) -> None:
    command = [sys.executable, "-m", "litmeter.cli.main", "init", "python plain.py {port}", "--ready", "/"]
    command = limited_inotify("max_inotify_watches", 1, [*command, "--body", "a.json"])
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "weights/table.txt" not in dependencies()  # that weights/table.txt is read was not seen
    assert "weights" in done.stdout
    assert "max_user_watches" in done.stdout
