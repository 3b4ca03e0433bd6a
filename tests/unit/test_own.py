"""Servers of one's own on the command line: what is read of them, and which mistakes are named."""

from pathlib import Path

import pytest

from litmeter.cli.main import main
from litmeter.cli.own import OWN, Own, is_own, project, read_given, settings_of
from litmeter.errors import UsageError
from litmeter.load.bodies import Bodies
from litmeter.params import Params


def read(*servers: str, own: Own = OWN, body: Path = Path(__file__)) -> Params:
    settings = settings_of(servers, own)
    comparison = {"reference": next(iter(settings)), "users": 8, "seconds": 10.0}
    own = own.model_copy(update={"body": [body]})
    with project({"experiments": settings, "comparison": comparison}, own) as params:
        return params


@pytest.mark.parametrize("server", ["a=x", "server:MyAPI", "python a.py --port {port}", "./run.sh {port}"])
def test_what_says_what_to_serve_is_no_name(server: str) -> None:
    assert is_own(server)
    assert not is_own("e7_tuned")


def test_an_api_with_keys_and_arguments() -> None:
    spec = "eight=server:MyAPI max_batch_size=8 batch_timeout_s=1e-2 api_kwargs.size=small api_kwargs.n=3"
    experiments = read("server:MyAPI", spec).experiments
    assert list(experiments) == ["a", "eight"]
    serve = experiments["eight"]
    assert (serve.kind, serve.max_batch_size, serve.batch_timeout_s) == ("api", 8, 0.01)
    assert serve.api_kwargs == {"size": "small", "n": 3}
    assert serve.folder == str(Path.cwd())


def test_commands_are_kept_as_they_are() -> None:
    own = Own(path="/v1", ready="/up")
    experiments = read("python a.py --port={port}", "x=run 'b c' {port}", own=own).experiments
    assert [one.command for one in experiments.values()] == ["python a.py --port={port}", "run 'b c' {port}"]
    assert {(one.kind, one.path, one.ready) for one in experiments.values()} == {("command", "/v1", "/up")}


@pytest.mark.parametrize(
    ("servers", "said"),
    [
        (["a=server:MyAPI", "a=server:MyAPI"], "named a"),
        (["server:MyAPI fast"], "'fast'"),
        (["server:MyAPI max_batch=8"], "a.max_batch: unknown key"),
        (["server:MyAPI max_batch_size=0"], "a.max_batch_size: got 0"),
        (["server:MyAPI fast_queue=true"], "a.fast_queue: LitServe"),
        (["x=python a.py --port 8000"], "{port} is missing"),
        (["x=python 'a.py {port}"], "No closing quotation"),
    ],
)
def test_mistakes_are_named(servers: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said.replace("{", r"\{")):
        read(*servers)


def test_several_bodies_are_sent_in_their_order(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("b.json", "a.jsonl")]
    for file, content in zip(files, ("0", "1\n2"), strict=True):
        file.write_text(content)
    content = {
        "experiments": settings_of(["m:A"], OWN),
        "comparison": {"reference": "a", "users": 1, "seconds": 1.0},
    }
    before = Path.cwd()
    with project(content, Own(body=files)) as params:
        bodies = params.bodies()
        assert bodies == Bodies([b"0", b"1", b"2"], "application/json")
        assert Path.cwd() != before
    assert Path.cwd() == before


def test_bodies_of_several_content_types_are_refused(tmp_path: Path) -> None:
    for name in ("a.json", "b.jpg"):
        (tmp_path / name).write_text("{}")
    given = OWN.model_copy(update={"body": [tmp_path / "a.json", tmp_path / "b.jpg"]})
    with pytest.raises(UsageError, match="several content types"):
        read_given(given)
    named = given.model_copy(update={"content_type": "text/plain"})
    assert read_given(named).content_type == "text/plain"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["m:A", "m:B"], "--body: missing"),
        (["m:A", "--body", "x.json"], "two servers"),
        (["e1_baseline", "candidate", "--body", "x.json"], "--body: only with servers of your own"),
        (["m:A", "m:B", "--body", "no-such.json"], "no-such.json"),
    ],
)
def test_one_line_says_what_is_wrong(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *arguments])
    assert said in capsys.readouterr().err
