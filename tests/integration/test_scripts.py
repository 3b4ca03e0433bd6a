"""Scripts that start a server, as they are: their ports are moved, and their settings read or changed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from litmeter.cli.main import main
from litmeter.errors import ServerError
from litmeter.kinds.configuration import Configuration, Host, Preflight
from litmeter.kinds.script import Script
from litmeter.kinds.server import Start
from litmeter.load.bodies import Bodies
from litmeter.measure.subjects import pipelines_of
from litmeter.measure.turn import Turn, Work, in_process
from litmeter.stages.comparison import checked
from litmeter.system.processes import followed
from tests.support.asking import wait_for

SCRIPT = """
import sys
import time

import litserve as ls


class Stub(ls.LitAPI):
    def setup(self, device):
        pass

    def decode_request(self, request):
        return request["x"]

    def predict(self, x):
        time.sleep(0.01)
        return x

    def encode_response(self, output):
        return {"y": output}


if __name__ == "__main__":
    workers = int(sys.argv[1]) if sys.argv[1:] else 1
    server = ls.LitServer(Stub(), accelerator="cpu", workers_per_device=workers)
    server.run(port=8000, num_api_servers=1)
"""
SEVERAL = SCRIPT.replace("ls.LitServer(Stub()", 'ls.LitServer([Stub(api_path="/one"), Stub(api_path="/two")]')
FASTAPI = """
import fastapi
import uvicorn

app = fastapi.FastAPI()


@app.post("/predict")
def predict(body: dict) -> dict:
    return {"y": body["x"]}


uvicorn.Server(uvicorn.Config(app, "0.0.0.0", 8000)).run()
"""
TWO_PORTS = """
import multiprocessing
import uvicorn


async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def serve(port):
    uvicorn.run(app, port=port, lifespan="off")


if __name__ == "__main__":
    others = [multiprocessing.Process(target=serve, args=[port]) for port in (8000, 9000)]
    [other.start() for other in others]
    [other.join() for other in others]
"""
BRIEF = ("--body", "a.json", "--users", "4", "--seconds", "8")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "server.py").write_text(SCRIPT)
    (tmp_path / "a.json").write_text('{"x": 1}')
    monkeypatch.chdir(tmp_path)
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def port_8000() -> Iterator[None]:
    """The scripts' port is taken, by this process or by another one."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("0.0.0.0", 8000))
            taken.listen()
        except OSError:
            pass
        yield


def said(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    return " ".join(f"{out} {err}".split())


@pytest.mark.usefixtures("port_8000")
def test_a_script_is_compared_with_other_settings_of_itself(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    servers = ["server.py", "server.py workers_per_device=4"]
    assert main(["compare", *servers, *BRIEF, "--json", "--report", "page.html"]) == 0
    out, err = capsys.readouterr()
    one, four = json.loads(out)["configurations"]
    assert (one["failed"], four["failed"]) == (0, 0)
    assert four["ratio_low"] > 1
    assert four["ratio"] > 1.5
    noted = " ".join(err.split())
    assert (
        "Stub at /predict: max_batch_size 1; 1 worker on each of 1 cpu; 1 API server; timeout 30 s" in noted
    )
    assert "4 workers on each of 1 cpu" in noted
    page = (folder / "page.html").read_text()
    assert "4 workers on each of 1 cpu" in page
    assert sorted(path.name for path in folder.iterdir()) == ["a.json", "page.html", "server.py"]


def test_its_pipeline_runs_without_the_server(folder: Path) -> None:
    """A request takes a worker 10 ms."""
    script = Script(script="server.py", folder=str(folder), workers_per_device=2)
    bodies = Bodies([b'{"x": 1}'], "application/json")
    pipelines = pipelines_of({"a": script.in_process}, "cpu", bodies, 8)
    subject = pipelines[in_process("a")]
    with subject.start() as ready:
        ready()
        one = subject.load(Turn("a", Work("pipeline", 1, 1.0, busy=1)), lambda: None)
        two = subject.load(Turn("a", Work("pipeline", 1, 1.0, busy=2)), lambda: None)
    assert 50 < one.blocks.mean() < 101
    assert 1.2 < two.blocks.mean() / one.blocks.mean() < 3


def test_its_batches_are_counted_and_its_processes_told_apart(folder: Path) -> None:
    script = Script(script="server.py", folder=str(folder), workers_per_device=2, max_batch_size=2)
    with script.starting(Start("cpu", 10.0)) as server:
        server.ready()
        assert requests.post(server.target, json={"x": 1}, timeout=10).status_code == 200
        counted = server.counted()
        assert counted is not None
        for _ in range(3):
            requests.post(server.target, json={"x": 1}, timeout=10)
        batches, roles = server.counted() or (0, {})
    assert batches - counted[0] == 3
    assert sorted(roles.values()) == ["http", "worker", "worker"]


def test_what_it_runs_with_is_known_before_anything_is_timed(folder: Path) -> None:
    (folder / "server.py").write_text(SCRIPT.replace("Stub()", "Stub(max_batch_size=4)"))
    measured: dict[str, Configuration] = {"a": Script(script="server.py 2", folder=str(folder))}
    checked(measured, Bodies([b'{"x": 1}'], "application/json"), "cpu", 10.0, users=8)
    assert (measured["a"].largest_batch, measured["a"].workers) == (4, 2)


def test_answers_that_depend_on_the_batch_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = SCRIPT.replace("return x\n", "return [sum(x)] * len(x) if isinstance(x, list) else x\n")
    (folder / "server.py").write_text(wrong)
    (folder / "b.json").write_text('{"x": 2}')
    assert main(["compare", "server.py max_batch_size=2", "--body", "b.json", *BRIEF]) == 0
    text = said(capsys)
    assert "is measured as it is, although answers to body 1 differ" in text, text


def test_a_server_error_shows_the_end_of_its_log(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "server.py").write_text(SCRIPT.replace('request["x"]', 'request["other"]'))
    assert main(["compare", "server.py", *BRIEF]) == 2
    text = said(capsys)
    assert "with 500" in text
    assert "KeyError: 'other'" in text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_of_it_is_left_when_litmeter_is_interrupted_or_killed(folder: Path, number: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "litmeter.cli.main", "compare", "server.py", *BRIEF[:-1], "60"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as measuring:
        wait_for(lambda: len(processes_in(folder)) > 5)
        measuring.send_signal(number)
        measuring.communicate()
    assert measuring.returncode != 0
    wait_for(lambda: processes_in(folder) == [])


def processes_in(folder: Path) -> list[int]:
    """Other processes whose working directory is ``folder``."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cwd() == str(folder) and process.status() != "zombie" and process.pid != os.getpid():
                found.append(process.pid)
    return found


def test_alone_it_is_measured_and_told_what_to_compare_it_with(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "python server.py 2", *BRIEF]) == 0
    text = said(capsys)
    assert "2 workers on each of 1 cpu" in text
    assert "litmeter compare 'python server.py 2'" in text


@pytest.mark.usefixtures("port_8000")
def test_a_script_without_litserve_is_moved_too(capsys: pytest.CaptureFixture[str]) -> None:
    Path("app.py").write_text(FASTAPI)
    assert main(["loadtest", "app.py", "--body", "a.json", "--users", "2", "--requests", "20"]) in (0, 1)
    assert "valid" in said(capsys)
    assert main(["compare", "app.py max_batch_size=2", *BRIEF]) != 0
    assert "max_batch_size: app.py starts no LitServer" in said(capsys)


def test_of_several_apis_the_path_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("server.py").write_text(SEVERAL)
    assert main(["compare", "server.py", *BRIEF]) != 0
    assert "it serves several paths: give --path /one or /two" in said(capsys)
    assert main(["compare", "server.py max_batch_size=4", "--path", "/two", *BRIEF]) != 0
    assert "give /one:max_batch_size=4 or /two:max_batch_size=4" in said(capsys)
    assert main(["compare", "server.py /three:max_batch_size=4", "--path", "/two", *BRIEF]) != 0
    assert "no API at /three; there are /one, /two" in said(capsys)
    assert main(["compare", "server.py /two:max_batch_size=4", "--path", "/two", *BRIEF]) == 0
    assert "Stub at /one: max_batch_size 1; Stub at /two: max_batch_size 4" in said(capsys)


@pytest.mark.parametrize("given", ["[2, 3]", '{"/two": 3, "/one": 2}'])
def test_workers_of_each_api_are_read_from_a_list_or_a_dict(given: str, folder: Path) -> None:
    pytest.importorskip("litserve", "0.2.17")
    Path("server.py").write_text(SEVERAL.replace("workers_per_device=workers", f"workers_per_device={given}"))
    script = Script(script="server.py", folder=str(folder), path="/two")
    assert script.with_knobs().workers_per_device == 3
    assert "2 workers or 3 workers on each of 1 cpu" in script.ran().text
    alone = script.model_copy(update={"workers_per_device": 1})
    assert alone.running_keys()["workers_per_device"] == 1


def test_settings_are_tried_without_another_start_for_the_port(folder: Path) -> None:
    counting = SCRIPT.replace("    workers =", "    open('starts', 'a').write('.')\n    workers =")
    Path("server.py").write_text(counting)
    script = Script(script="server.py", folder=str(folder)).with_knobs()
    for size in (2, 4):
        with script.model_copy(update={"max_batch_size": size}).starting(Start("cpu", 10.0)) as server:
            server.ready()
    assert Path("starts").read_text() == "." * 3
    unknown = script.model_copy(update={"apis": {"/other": {"max_batch_size": 2}}})
    with (
        pytest.raises(ServerError, match="no API at /other; there are /predict"),
        unknown.starting(Start("cpu", 10.0)) as server,
    ):
        server.ready()


WRONG = {
    "no file": ("other.py", None, "there is no file 'other.py'"),
    "no import": ("server.py", "import nothing_at_all", "No module named 'nothing_at_all'"),
    "no server": ("server.py", "print(1)", "ended (exit status 0) before it started a server"),
    "a notebook": ("server.ipynb", None, "server.ipynb is a notebook"),
    "arguments": ("server.py --fast", None, "its own arguments: 'python server.py --fast'"),
    "a key": ("server.py batch_size=3", None, "server.batch_size: unknown key"),
    "isolated": ("python -I server.py", None, "give a command with {port}"),
    "computed": (
        "server.py max_batch_size=3",
        SCRIPT.replace(
            "    def setup",
            "    max_batch_size = property(lambda self: 2, lambda self, _: None)\n\n    def setup",
        ),
        "max_batch_size: Stub computes it itself",
    ),
    "another path": ("server.py --path", None, "--path /other: not served; there are /predict"),
    "an empty body": ("server.py --body", None, "empty.json: an empty file"),
    "no uvicorn": (
        "listens.py",
        "import http.server as s; s.test(port=0)",
        "{port}",
    ),
    "silent": ("silent.py", "__import__('time').sleep(100)", "without a sign of life"),
    "two ports": ("server.py", TWO_PORTS, "starts servers at ports 8000 and 9000"),
}


@pytest.mark.parametrize(("server", "content", "message"), WRONG.values(), ids=list(WRONG))
def test_wrong_input_is_told_in_a_line(
    server: str,
    content: str | None,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if content is not None:
        Path(server.split()[-1 if server.startswith("python") else 0]).write_text(content)
    monkeypatch.setattr("litmeter.kinds.script.DOUBT_S", 1.0)
    Path("empty.json").touch()
    server, *option = server.split(" --")
    more = {"path": ["--path", "/other"], "body": ["--body", "empty.json"]}.get("".join(option), [])
    if option and not more:
        server = f"{server} --{option[0]}"
    assert main(["compare", f"server={server}", *more, "--ready-s", "6", *BRIEF]) == 2
    text = said(capsys)
    assert message in text, text
    assert "Traceback" not in text


def test_a_sitecustomize_that_is_hidden_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "site").mkdir()
    (folder / "site/sitecustomize.py").write_text("import os\n\nopen(os.environ['SEEN'], 'w').close()\n")
    monkeypatch.setenv("SEEN", str(folder / "seen"))
    monkeypatch.setenv("PYTHONPATH", str(folder / "site"))
    assert Script(script="server.py", folder=str(folder)).ran().paths == ["/predict"]
    assert (folder / "seen").exists()


def test_its_python_is_that_of_the_environment_beside_it(folder: Path) -> None:
    venv.create(folder / ".venv", symlinks=True)
    [place] = (folder / ".venv").glob("lib/python*/site-packages")
    here = next(one for one in map(Path, sys.path) if (one / "litserve").is_dir())
    (place / "others.pth").write_text(f"{here}\n")
    ran = Script(script="python server.py", folder=str(folder)).ran()
    assert ran.python == str(folder / ".venv/bin/python")
    shutil.rmtree(folder / ".venv")
    assert Script(script="server.py", folder=str(folder)).ran().python == sys.executable


def test_nothing_of_it_is_left(folder: Path) -> None:
    script = Script(script="server.py", folder=str(folder))
    with script.starting(Start("cpu", 30.0)) as server:
        server.ready()
        left = followed(server.pid)
        assert len(left) > 2
    assert not any(one.is_running() and one.status() != "zombie" for one in left)


def test_a_revision_and_the_tree_run_at_once_although_both_want_one_port(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "first"]):
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        subprocess.run(["git", *who, *words], cwd=folder, check=True)
    Path("server.py").write_text(SCRIPT.replace("0.01", "0.1"))
    brief = ("--body", "a.json", "--users", "2", "--seconds", "12")
    assert main(["check", "server.py", "--against", "main", *brief, "--json"]) == 1
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["new_over_old"]["high"] < 0.5


def test_a_check_without_a_body_makes_one_up(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = "class X(__import__('pydantic').BaseModel):\n    x: int\n\n\napp ="
    text = FASTAPI.replace("app =", model, 1).replace("body: dict", "body: X").replace('body["x"]', "body.x")
    (folder / "app.py").write_text(text)
    for words in ("init -q -b main", "add .", "-c user.name=a -c user.email=a@example.org commit -qm 1"):
        subprocess.run(["git", *words.split()], check=True)
    brief = ["--users", "2", "--seconds", "5"]
    assert main(["check", "app.py", "--against", "main", *brief]) in (0, 1, 3)
    assert 'sent is {"x": 1}, made up' in said(capsys)


def test_batch_sizes_that_answer_wrongly_are_left_out_of_a_search(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Script(script="server.py", folder=str(folder)).with_knobs()
    wrong = SCRIPT.replace("return x\n", "return [sum(x)] * len(x) if isinstance(x, list) else x\n")
    (folder / "server.py").write_text(wrong)
    sizes = [script.model_copy(update={"max_batch_size": size}) for size in (1, 2)]
    how = Preflight(Bodies([b'{"x": 1}', b'{"x": 2}'], "application/json"), "cpu", 20.0)
    host = script.tried(sizes, Host("cpu", 2), how)
    [found] = host.exclusions
    assert found.values == {"max_batch_size": 2}
    assert "answers to body 1 differ" in found.reason
