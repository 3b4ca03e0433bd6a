"""The command line: help, version, the project's folder, and mistakes in one line."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from litmeter.cli import arguments, commands
from litmeter.cli.main import main
from litmeter.cli.parser import make_parser

COMMANDS = (
    *("serve", "predict", "loadtest", "capacity", "sender", "tune", "quick", "verify"),
    *("results", "report"),
)
NAMES = (*COMMANDS, "bench")


def output_of(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[object, str, str]:
    """Exit status, stdout and stderr of ``litmeter`` with these arguments."""
    try:
        status: object = main(words)
    except SystemExit as exit:
        status = exit.code
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
    assert tuple(re.findall(r"^    (\w+)(?: \(bench\))?\s", text, re.MULTILINE)) == COMMANDS


@pytest.mark.parametrize("name", NAMES)
def test_the_help_of_every_command_has_examples(capsys: pytest.CaptureFixture[str], name: str) -> None:
    status, text, _ = output_of(capsys, name, "--help")
    assert status == 0
    assert examples_of(text)


@pytest.mark.parametrize("name", NAMES)
def test_every_example_can_be_parsed(capsys: pytest.CaptureFixture[str], name: str) -> None:
    _, text, _ = output_of(capsys, name, "--help")
    for words in examples_of(text):
        options = make_parser().parse_args(words)
        assert options.run is getattr(commands, "loadtest" if name == "bench" else name)


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert output_of(capsys, "--version") == (0, f"litmeter {version('litmeter')}\n", "")


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


def test_a_command_works_in_the_project_that_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/params.yaml").write_text("[]\n")
    status, _, error = output_of(capsys, "--project", "other", "results")
    assert (status, error) == (2, "litmeter: params.yaml: expected sections, got list\n")


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("unknown",),
        ("serve", "--port", "80"),
        ("serve", "--host", "10.0.0.1"),
        ("predict",),
        ("loadtest",),
        ("loadtest", "--url", "http://127.0.0.1/", "--users", "1,1"),
        ("loadtest", "--url", "http://127.0.0.1/", "--rate", "0"),
        ("verify", "--unknown"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    status, out, error = output_of(capsys, *words)
    assert (status, out) == (2, "")
    assert error.count("\n") == 1
    assert error.endswith("; --help explains\n")


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (arguments.positive_int, "1", 1),
        (arguments.levels, "1, 8,32", (1, 8, 32)),
        (arguments.rate, "0.5", 0.5),
        (arguments.seconds, "0", 0.0),
        (arguments.positive_seconds, "1e-3", 0.001),
        (arguments.port, "1024", 1024),
        (arguments.port, "65535", 65535),
    ],
)
def test_a_number_is_read_from_the_command_line(parse: Callable[[str], Any], text: str, value: Any) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (arguments.positive_int, "0"),
        (arguments.positive_int, "-1"),
        (arguments.positive_int, "1.5"),
        (arguments.levels, ""),
        (arguments.levels, "1,,8"),
        (arguments.levels, "8,8"),
        (arguments.rate, "0"),
        (arguments.rate, "inf"),
        (arguments.rate, "fast"),
        (arguments.seconds, "-1"),
        (arguments.seconds, "nan"),
        (arguments.positive_seconds, "0"),
        (arguments.port, "1023"),
        (arguments.port, "65536"),
        (arguments.port, "http"),
    ],
)
def test_another_number_is_refused(parse: Callable[[str], Any], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        parse(text)


def test_paths_given_beside_a_project_stay_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "body").write_bytes(b"{}")
    monkeypatch.chdir(tmp_path)
    status, _, error = output_of(
        capsys, "--project", "other", "loadtest", "--url", "http://127.0.0.1:9/", "--body-file", "body"
    )
    assert status == 1
    assert "127.0.0.1:9" in error  # the body was found: it is the server that is not there
