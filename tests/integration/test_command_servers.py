"""Servers that a command starts: who answers, what is measured of them, and that nothing of them is left."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import yaml

from litmeter.direct.binding import KEY_VARIABLE, Binding
from litmeter.errors import ServerError
from litmeter.kinds import command as command_kind
from litmeter.kinds import server as started
from litmeter.kinds.command import Command
from litmeter.kinds.configuration import Configuration
from litmeter.kinds.server import Start, StartedServer, bound_socket
from litmeter.load import LoadGenerator, load_generator
from litmeter.measure.log import Log
from litmeter.measure.run import run
from litmeter.measure.subjects import Served
from litmeter.measure.turn import Sample, Schedule, Turn, make_ready, measure
from litmeter.system.processes import memory_alone, tree
from tests.support.asking import wait_for
from tests.support.load import plan
from tests.support.processes import processes_mentioning
from tests.support.project import ROOT
from tests.support.servers import APIS, free_port
from tests.support.stub_server import Handler

SERVER = """
import os, sys
import stub_server

class Handler(stub_server.Handler):
    def do_GET(self):
        if self.path == "/die":
            print("the last words")
            os._exit(3)
        known = self.path in ("/health", "/predict", "/v1")
        self.answer(200 if known else 404, repr(dict(os.environ, pid=os.getpid(), cwd=os.getcwd())).encode())

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

def serve(port):
    stub_server.serve(port, Handler)

if __name__ == "__main__":
    serve(sys.argv[1])
"""
LOAD = plan(4, warmup_s=0.2, min_s=0.6, max_s=0.6)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Of server.py, of which no process may be left."""
    shutil.copy(APIS / "stub_server.py", tmp_path)
    (tmp_path / "server.py").write_text(SERVER)
    yield tmp_path
    assert processes_mentioning(str(tmp_path)) == []


@pytest.fixture(scope="module")
def sender() -> Iterator[LoadGenerator]:
    with load_generator([b"{}"], "application/json") as generator:
        yield generator


def command(folder: Path, program: str = "", **settings: Any) -> Configuration:
    """A command that runs server.py, or another program that may import it."""
    script = folder / "server.py"
    if program:
        script = folder / "program.py"
        script.write_text(program)
    return Command(command=f"{sys.executable} {script} {{port}}", **settings)


@contextmanager
def running(settings: Configuration) -> Iterator[StartedServer]:
    """The server once it is ready; then its port is free."""
    with settings.starting(Start("cpu", 1.0)) as server:
        server.ready()
        yield server
    bound_socket(server.binding).close()


def turns(names: list[str]) -> Schedule[list[Sample]]:
    yield from make_ready(names)
    samples = []
    for number, name in enumerate(names):
        samples.append((yield from measure(Turn(name, LOAD, number))))
    return samples


def served(sender: LoadGenerator, **settings: Configuration) -> dict[str, Served]:
    return {name: Served(name, one, sender, "cpu", 10.0) for name, one in settings.items()}


def test_a_command_runs_in_its_folder_with_the_users_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "secret")  # which the load generator does not send
    monkeypatch.setenv("OWN", "value")
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    monkeypatch.setenv("PATH", os.defpath)
    with running(Command(command="python server.py '{port}'", folder=str(folder))) as server:
        found = eval(requests.post(f"{server.url}/predict", timeout=10).text)
        assert psutil.Process(server.pid).exe() == os.path.realpath(sys.executable)
    assert found["cwd"] == str(folder)
    assert found["OWN"] == "value"
    assert KEY_VARIABLE not in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsuch {port}", "'nonsuch'"),
        ("./server.py {port}", "'./server.py'"),  # it may not be executed
        ("A=1 python {port}", "'A=1' .* sh -c"),
        ("python '{port}", "No closing quotation"),
    ],
)
def test_a_command_that_starts_no_program_is_one_line(
    folder: Path, sender: LoadGenerator, text: str, message: str
) -> None:
    subjects = served(sender, a=Command(command=text, folder=str(folder)))
    with pytest.raises(ServerError, match=f"^a: command.*{message}") as caught:
        run(turns(["a"]), dict(subjects), Log(), 10.0, lambda *_: None)
    assert "\n" not in str(caught.value)


def test_a_stranger_on_the_port_is_named(folder: Path) -> None:
    """It answers for a command that has no server."""
    program = "import sys, time; print(sys.argv[1]); time.sleep(60)"
    with (
        command(folder, program).starting(Start("cpu", 1.0)) as server,
        ThreadingHTTPServer(("127.0.0.1", server.binding.port), Handler) as stranger,
    ):
        threading.Thread(target=stranger.serve_forever).start()
        try:
            with pytest.raises(ServerError, match=rf"is held by .* \({os.getpid()}\)"):
                server.ready()
        finally:
            stranger.shutdown()


def test_a_stranger_beside_the_server_is_named(folder: Path) -> None:
    """Both may listen there, by SO_REUSEPORT."""
    program = """
import socket, sys
import server
class Server(server.stub_server.Server):
    allow_reuse_port = True
    def server_bind(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()
Server(("127.0.0.1", int(sys.argv[1])), server.Handler).serve_forever()
"""
    with running(command(folder, program)) as server:
        assert server.is_ready()
        arguments = [sys.executable, str(folder / "program.py"), str(server.binding.port)]
        with subprocess.Popen(arguments) as stranger:
            try:
                with pytest.raises(ServerError, match=rf"\({stranger.pid}\)"):
                    wait_for(lambda: not server.is_ready())
            finally:
                stranger.kill()


IGNORES_SIGTERM = """
import os, signal, sys, time
import server
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    LEAVE
    server.serve(sys.argv[1])
time.sleep(60)
"""
OUTSIDE = {"child": "pass", "session": "os.setsid()", "daemon": "os.setsid(); os.fork() and os._exit(0)"}
"""What a child that serves does first."""


@pytest.mark.parametrize("where", OUTSIDE)
def test_what_survives_its_end_is_counted_stopped_killed_and_named(
    folder: Path, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = command(folder, IGNORES_SIGTERM.replace("LEAVE", OUTSIDE[where]))
    with running(settings) as server:
        serving = int(eval(requests.get(f"{server.url}/health", timeout=10).text)["pid"])
        processes = {process for process in tree(server.pid) if process.status() != psutil.STATUS_ZOMBIE}
        assert {process.pid for process in processes} == {server.pid, serving}
        name = psutil.Process(serving).name()
        assert memory_alone(server.pid) > psutil.Process(serving).memory_full_info().uss
        server.pause()
        wait_for(lambda: {process.status() for process in processes} == {psutil.STATUS_STOPPED})
        server.resume()
        assert requests.get(f"{server.url}/health", timeout=10).status_code == 200
        server.pause()
    assert f"{name} ({serving})" in " ".join(capsys.readouterr().out.split())
    with running(settings):
        pass
    assert capsys.readouterr().out == ""


LINGERS = """
until = time.monotonic() + 0.5
while time.monotonic() < until:
    pass
"""


@pytest.mark.parametrize("end", ["", LINGERS], ids=["at once", "after the other answers"])
def test_a_command_that_goes_to_the_background_is_refused_and_killed(
    folder: Path, end: str, capsys: pytest.CaptureFixture[str]
) -> None:
    program = f"print('here I go')\n{IGNORES_SIGTERM.replace('LEAVE', 'pass').replace('time.sleep(60)', end)}"
    with (
        pytest.raises(
            ServerError, match=r"(?s)exit status 0; .* stay in the foreground.*here I go"
        ) as caught,
        running(command(folder, program)),
    ):
        pass
    assert "Traceback" not in str(caught.value)
    assert re.search(r"python\S* \(\d+\) had to be killed", " ".join(capsys.readouterr().out.split()))


def test_a_server_has_time_to_clean_up_even_if_it_sleeps(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = """
import signal, sys, threading, time
import server
def clean_up(*_):
    time.sleep(0.5)
    print("cleaned up")
    open(__file__ + ".cleaned", "w").close()
    sys.exit()
signal.signal(signal.SIGTERM, clean_up)
threading.Thread(target=server.serve, args=sys.argv[1:], daemon=True).start()
signal.pause()
"""
    with running(command(folder, program)) as server:
        server.pause()
    assert (folder / "program.py.cleaned").exists()
    assert capsys.readouterr().out == ""


WITHOUT_HEALTH = """
import os, sys, time
import stub_server
ANSWERS = [int(status) for status in sys.argv[2:]]

class Handler(stub_server.Handler):
    def do_GET(self):
        self.send_error(404)

    def status(self):
        status = ANSWERS.pop(0) if len(ANSWERS) > 1 else ANSWERS[0]
        if status == 200 and not os.path.exists(name := __file__ + ".loaded"):
            with open(name + "~", "w") as file:
                file.write(str(time.perf_counter()))
            os.rename(name + "~", name)
        return status

WITHOUT_GET
stub_server.serve(sys.argv[1], Handler)
"""
GETS = {"not found": "", "no method": "del Handler.do_GET, stub_server.Handler.do_GET"}
"""How a server without a health check answers to one."""


def without_health(folder: Path, get: str, statuses: str) -> Configuration:
    """A command that answers requests with these statuses, again and again with the last."""
    settings = command(folder, WITHOUT_HEALTH.replace("WITHOUT_GET", GETS[get]))
    return settings.model_copy(update={"command": f"{settings.command} {statuses}"})


@pytest.mark.parametrize(("get", "statuses"), [("no method", "200"), ("not found", "503 404 503 200")])
def test_a_server_without_a_health_check_is_ready_once_it_answers(
    folder: Path, sender: LoadGenerator, get: str, statuses: str
) -> None:
    """At the first good answer, which tells when that is."""
    [subject] = served(sender, a=without_health(folder, get, statuses)).values()
    with subject.start() as ready:
        ready()
        loaded = float((folder / "program.py.loaded").read_text())
        assert subject.server.first_status == 200
        assert subject.server.started + subject.ready_s >= loaded


def test_a_first_body_that_is_refused_is_said_at_once(folder: Path, sender: LoadGenerator) -> None:
    [subject] = served(sender, a=without_health(folder, "not found", "503 422")).values()
    with pytest.raises(ServerError, match=r"^a: .* with 422"), subject.start() as ready:
        ready()


def test_a_health_check_that_is_there_is_waited_for(folder: Path, sender: LoadGenerator) -> None:
    """Though requests are answered before, as by a front end whose model still loads."""
    program = """
import os, sys
import server
class Handler(server.Handler):
    def do_GET(self):
        if self.path == "/health" and not os.path.exists(__file__ + ".healthy"):
            open(__file__ + ".healthy", "w").close()
            return self.send_error(503)
        super().do_GET()
    def do_POST(self):
        if not os.path.exists(__file__ + ".healthy"):
            os._exit(4)
        super().do_GET()
server.stub_server.serve(sys.argv[1], Handler)
"""
    [subject] = served(sender, a=command(folder, program)).values()
    with subject.start() as ready:
        ready()
        assert (subject.server.status, subject.server.first_status) == (200, None)


def test_a_server_that_is_never_ready_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(started, "DOUBT_S", 0.5)
    with (
        command(folder, ready="/nonsuch").starting(Start("cpu", 1.0)) as server,
        pytest.raises(ServerError, match=r"404 .*/nonsuch; .*ready"),
    ):
        server.ready(5.0)
    assert capsys.readouterr().out.count("404") == 1  # soon, and again where it ends


def test_a_server_at_another_port_than_its_own_is_said_soon(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it is silent: a port for metrics may come first."""
    monkeypatch.setattr(started, "DOUBT_S", 1.0)
    program = f"import server\nserver.serve({(port := free_port())})"
    with (
        command(folder, program).starting(Start("cpu", 1.0)) as server,
        pytest.raises(ServerError, match=f"listens on port {port}: .*FILE.py"),
    ):
        server.ready(1000.0)


LOUD = {"a line in the log": "print(1, flush=True); time.sleep(0.2)", "CPU time": "sum(range(1000))"}


@pytest.mark.parametrize("sign", LOUD)
def test_a_start_may_take_long_as_long_as_there_are_signs_of_life(folder: Path, sign: str) -> None:
    program = f"""
import sys, time
import server
until = time.monotonic() + 6
while time.monotonic() < until:
    {LOUD[sign]}
server.serve(sys.argv[1])
"""
    with command(folder, program).starting(Start("cpu", 1.0)) as server:
        server.ready(4.0)
    silent = command(folder, program.replace(LOUD[sign], "time.sleep(100)"))
    with silent.starting(Start("cpu", 1.0)) as server, pytest.raises(ServerError, match="sign of life"):
        server.ready(4.0)


def test_the_log_of_a_server_that_dies_is_shown(folder: Path, sender: LoadGenerator) -> None:
    """Before it is ready, and under load."""
    dies = command(folder, "print('no model'); raise SystemExit(7)")
    with pytest.raises(ServerError, match=r"(?s)^a: the server died \(exit status 7\).*no model"):
        run(turns(["a"]), dict(served(sender, a=dies)), Log(), 10.0, lambda *_: None)
    under_load = command(folder, path="/die")
    with pytest.raises(ServerError, match=r"(?s)^b: the server died \(exit status 3\).*the last words"):
        run(turns(["b"]), dict(served(sender, b=under_load)), Log(), 10.0, lambda *_: None)


MEASURING = """
import sys
from litmeter.load import load_generator
from litmeter.measure.log import Log
from litmeter.measure.rounds import head_to_head
from litmeter.measure.run import run
from litmeter.measure.subjects import Served
from litmeter.kinds.command import Command

def show(text, seconds, end_s):
    if text.endswith("now b"):
        print("up", flush=True)

commands = {"a": Command(command=sys.argv[1]), "b": Command(command=sys.argv[2])}
with load_generator([b"{}"], "application/json") as sender:
    subjects = {name: Served(name, one, sender, "cpu", 9.0) for name, one in commands.items()}
    run(head_to_head(["a", "b"], 4, 60.0, 1, 9.0), subjects, Log(), 60.0, show)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_run_that_is_interrupted_or_killed(folder: Path, number: int) -> None:
    """One of its servers has left its process group, and ignores SIGTERM."""
    daemon = command(folder, IGNORES_SIGTERM.replace("LEAVE", OUTSIDE["daemon"])).command
    with subprocess.Popen(
        [sys.executable, "-c", MEASURING, str(command(folder).command), str(daemon)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"TMPDIR": str(folder)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as measuring:
        assert measuring.stdout.readline() == b"up\n"
        servers = processes_mentioning(f"{folder}/program.py")
        assert len(servers) == 3  # the measuring process names it, too
        measuring.send_signal(number)
        measuring.communicate()
    assert measuring.returncode != 0
    wait_for(lambda: processes_mentioning(str(folder)) == [])


SUPERVISOR = """
import os, signal, sys, threading, time
import server
alive = __file__ + ".alive"
open(alive, "w").close()
def report():
    while True:
        os.utime(alive)
        for _ in range(10):
            time.sleep(0.05)
if (worker := os.fork()) == 0:
    threading.Thread(target=report, daemon=True).start()
    server.serve(sys.argv[1])
while True:
    if time.time() - os.stat(alive).st_mtime > 1.5:
        os.kill(worker, signal.SIGKILL)
        sys.exit("the worker has not reported")
    time.sleep(0.01)
"""


def test_a_supervisor_does_not_take_a_pause_for_a_hanging_worker(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_kind, "LONG_PAUSE_S", 1.0)
    with running(command(folder, SUPERVISOR)) as server:
        for _ in range(2):
            server.pause()
            time.sleep(2.0)
            server.resume()
            time.sleep(0.5)
            server.check()
        assert requests.get(f"{server.url}/health", timeout=10).status_code == 200


def test_serve_runs_a_command_in_the_foreground(folder: Path) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["serve"] = {"command": command(folder).command, "path": "/v1"}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    started = [sys.executable, "-m", "litmeter.cli.main", "serve", "--port", str(port := free_port())]
    refused = subprocess.run([*started, "--no-docs"], cwd=folder, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    with subprocess.Popen(started, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        lines = iter(process.stdout.readline, "")
        assert any(f"http://127.0.0.1:{port}/v1 answers" in line for line in lines)
        assert requests.post(f"http://127.0.0.1:{port}/v1", timeout=10).status_code == 200
        process.terminate()
        assert process.wait(60) == 0
    bound_socket(Binding(port)).close()


def test_the_port_is_free_after_the_end_of_a_killed_process_with_much_memory(folder: Path) -> None:
    """Memory goes first, and with it what the process is known by; then files and ports."""
    settings = command(folder, IGNORES_SIGTERM.replace("LEAVE", "os.setsid(); memory = b'1' * 2**30"))
    with running(settings):
        pass
