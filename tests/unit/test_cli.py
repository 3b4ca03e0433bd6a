"""The command line: help, options, the project's folder, and mistakes in one line."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from litmeter.cli.cluster import connected
from litmeter.cli.main import app, main
from litmeter.cli.options import LoadOptions, ObjectiveOptions
from litmeter.errors import LitmeterError
from litmeter.load.settings import LoadSettings
from litmeter.params import ObjectiveSettings, load_params
from litmeter.settings import Section
from tests.support.project import ROOT
from tests.support.servers import free_port

COMMANDS = {
    *("serve", "predict", "loadtest", "capacity", "machines", "compare"),
    *("init", "tune", "quick", "verify", "results", "report"),
}
URL = ("--url", "http://127.0.0.1:9/")


def output_of(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of ``litmeter`` with these arguments."""
    status = main(words)
    said = capsys.readouterr()
    return status, said.out, said.err


def examples_of(text: str) -> list[list[str]]:
    """The arguments of each example in a help text."""
    lines = text.partition("examples:\n")[2].replace("\\\n", "").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[line.index("litmeter") + 1 :] for line in words if "litmeter" in line]


def test_the_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    status, text, _ = output_of(capsys, "--help")
    assert status == 0
    assert set(re.findall(r"[a-z]+", text)) >= COMMANDS | {"project"}
    assert output_of(capsys, "--version") == (0, f"{version('litmeter')}\n", "")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_help_of_every_command_has_examples_that_can_be_parsed(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    status, text, _ = output_of(capsys, name, "--help")
    assert status == 0
    assert examples_of(text)
    for words in examples_of(text):
        app.parse_args(words, exit_on_error=False, print_error=False)
        assert app.parse_commands(words)[0] == (name,)


@pytest.mark.parametrize(
    ("command", "options", "section"),
    [("loadtest", LoadOptions, LoadSettings), ("capacity", ObjectiveOptions, ObjectiveSettings)],
)
def test_options_are_the_fields_of_params_yaml(
    capsys: pytest.CaptureFixture[str], command: str, options: type[Section], section: type[Section]
) -> None:
    text = " ".join(re.sub("[│╭╮╰╯─*]", "", output_of(capsys, command, "--help")[1]).split())
    hidden = {"request_body", "bodies", "configurations", "min_s", "max_s"}  # the last two: --seconds
    hidden.add("headers")  # --header
    for name, field in section.model_fields.items():
        if name != "content_type":  # any server's bodies have one of their own
            assert (f"--{name.replace('_', '-')} " in text) == (name not in hidden)
            assert name in hidden or str(field.description) in text
    section.model_validate(options.model_validate({}).model_dump())  # the defaults are within its limits


def test_a_list_is_typed_with_commas() -> None:
    words = ("loadtest", *URL, "--users", "1, 8,64", "--warmup-s", "1e-1", "--images", "a.jpg", "b.jpg")
    _, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    assert bound.arguments["load"].users == (1, 8, 64)
    assert bound.arguments["load"].warmup_s == 0.1
    assert bound.arguments["requests"].images == [Path("a.jpg"), Path("b.jpg")]
    assert bound.arguments["requests"].timeout_s == load_params(ROOT / "params.yaml").load.timeout_s


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("unknown", "unknown"),
        ("serve --port 65536", "--port"),
        ("serve --host 10.0.0.1", "--host"),
        ("predict", "IMAGE"),
        ("loadtest", "--url"),
        ("loadtest URL --body Makefile", "cannot be reached"),
        ("capacity URL --body Makefile", "cannot be reached"),
        ("loadtest URL", "nothing to send"),
        ("loadtest URL --body Makefile --ready-s 9", "--ready-s: only with a server to start"),
        ("loadtest URL --body Makefile --seconds 0.9", "--seconds: got 0.9"),
        ("check server.py", "--against: missing; a commit"),
        ("loadtest URL --users 1,1", "--users names a level twice"),
        ("loadtest URL --requests 1.5", "--requests: got '1.5'"),
        ("loadtest URL --rate 0", "--rate: got 0.0; allowed: greater than 0"),
        ("loadtest URL --warmup-s nan", "--warmup-s"),
        ("loadtest URL --max-s 2", "--max-s"),
        ("loadtest URL --slo-ms 9 --miss 0.6", "--miss: got 0.6"),
        ("capacity URL --tolerance 2", "--tolerance: got '2'"),
        ("capacity URL --seconds", "--seconds"),
        ("capacity URL --configurations candidate", "--configurations"),
        ("machines --rate 1", "--price"),
        ("verify more", "more"),
        ("loadtest URL --body Makefile --senders 2 --cluster 127.0.0.1:9", "--senders: not together"),
        ("loadtest URL --body Makefile --if-sender-dies end", "--if-sender-dies: only together"),
        ("--project missing results", "--project missing"),
        ("compare http://127.0.0.1:9/ m:B", "--body: missing"),
        ("compare nobody:A nobody:B", "ModuleNotFoundError: No module named 'nobody'"),
        ("compare m:A m:B --form a=b --body x.json", "--form: not together with --body"),
        ("loadtest URL --form image=@none.jpg", "none.jpg: No such file"),
        ("check --against main --command m:A --form image", "--form: expected NAME=VALUE"),
        ("tune m:A --form image", "--form: expected NAME=VALUE"),
        ("compare e7_tuned", "two configurations"),
        ("compare e1_baseline candidate --body x.json", "--body: only with servers of your own"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_option_as_it_is_typed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: str, part: str
) -> None:
    monkeypatch.chdir(ROOT)
    status, out, error = output_of(capsys, *words.replace("URL", " ".join(URL)).split())
    assert (status, out, error.count("\n")) == (2, "", 1)
    assert part in error
    assert Path.cwd() == ROOT


@pytest.mark.parametrize(
    ("cluster", "said"),
    [
        ("a:80", "expected HOST:PORT"),
        ("here", "expected HOST:PORT"),
        (f"127.0.0.1:{free_port()}", "cannot be reached"),
        ("198.51.100.1:6379", "must ask for a token"),
    ],
    ids=["system port", "no port", "nobody", "elsewhere"],
)
def test_a_cluster_that_is_none_or_not_allowed_is_named(
    monkeypatch: pytest.MonkeyPatch, cluster: str, said: str
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(LitmeterError, match=said) as caught, connected(cluster):
        pass
    assert "--cluster" in str(caught.value)
    assert cluster in str(caught.value)


def test_a_command_without_its_extra_says_which_one_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dvc", None)
    said = "litmeter: dvc is not installed: pip install 'litmeter[dvc]'\n"
    assert output_of(capsys, "quick") == (2, "", said)


def test_a_missing_project_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    here, missing = Path.cwd(), tmp_path / "missing"
    assert output_of(capsys, "--project", str(missing), "results") == (
        2,
        "",
        f"litmeter: --project {missing}: No such file or directory\n",
    )
    assert Path.cwd() == here


@pytest.mark.parametrize(
    "command",
    [
        *("loadtest --body body", "loadtest --images body", "loadtest --form a=@body", "predict body"),
        "loadtest --rate 5 --body body",
    ],
)
def test_paths_given_beside_a_project_stay_the_users(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "body").write_bytes(b"{}")
    monkeypatch.chdir(tmp_path)
    status, _, error = output_of(capsys, "--project", "other", *command.split(), *URL)
    assert status == 2
    assert "127.0.0.1:9" in error  # the body was found: it is the server that is not there


def test_asking_a_server_does_not_load_torch(tmp_path: Path) -> None:
    (photo := tmp_path / "a.jpg").write_bytes(b"")
    program = (
        "import sys; from litmeter.cli.main import main; main(sys.argv[1:]); "
        "print(sorted({'torch', 'timm', 'pydantic'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program, "predict", *URL, str(photo)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "no answer from" in done.stderr
    assert done.stdout == "[]\n"
