"""The command ``litmeter``: its subcommands, and errors in one line.

A subcommand imports its packages when it runs, so that ``predict`` does not load torch.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, MissingArgumentError, Parameter
from cyclopts.validators import Number

from litmeter.errors import ParamsError, UsageError, explained
from litmeter.system.temporary import report_stale_files

DEFAULT_PORT = 8000
QUIET: dict[str, Any] = {"exit_on_error": False, "print_error": False}


def typed(default: Any) -> str | None:
    """A default as a user would type it; None for a default that stands for "not given"."""
    if isinstance(default, list | tuple):
        return ",".join(map(str, default)) or None
    return None if default in (None, False) else str(default)


app = App(
    name="litmeter",
    help="Compare, tune, serve and load-test model servers: your own, or the image classifier's.",
    help_format="plaintext",
    help_epilogue="`dvc repro` runs the pipeline; each command's --help has examples.",
    default_parameter=Parameter(negative=(), show_default=typed),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the subcommand that ``arguments`` (default: the command line) name; return the exit status."""
    tokens = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return int(app.meta(tokens, result_action="return_value", **QUIET) or 0)
    except CycloptsError as error:
        command = " ".join(["litmeter", *(error.command_chain or ())])
        print(f"{command}: {mistake(error)}; --help explains", file=sys.stderr)
        return UsageError.exit_code
    except KeyboardInterrupt:
        print("litmeter: interrupted, without a result", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of our output has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        if (known := explained(error)) is None:
            raise
        print(f"litmeter: {known}", file=sys.stderr)
        return known.exit_code


@app.meta.default
def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)], project: Path | None = None
) -> Any:
    """Run the subcommand in ``tokens``.

    Args:
        project: folder of the project, with params.yaml (default: the current one)
    """
    command, bound, _ = app.parse_args(tokens, **QUIET)
    if project is not None:
        enter(project, bound.arguments)
    report_stale_files("litmeter")
    # SystemExit lets context managers stop the processes that they started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # nohup ignores it
        signal.signal(signal.SIGHUP, hang_up)
    return command(*bound.args, **bound.kwargs)


def hang_up(number: int, frame: FrameType | None) -> None:
    """End as by SIGTERM, once: a closed terminal and the shell in it both send SIGHUP."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def enter(project: Path, arguments: dict[str, Any]) -> None:
    """Make the paths in ``arguments`` absolute and change to ``project``; raise UsageError if that fails."""

    def absolute(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(map(absolute, value))
        if hasattr(value, "model_copy"):  # a group of options
            given = value.model_fields_set
            return value.model_copy(update={name: absolute(getattr(value, name)) for name in given})
        return value.absolute() if isinstance(value, Path) else value

    for name, value in arguments.items():
        arguments[name] = absolute(value)
    try:
        os.chdir(project)
    except OSError as error:
        raise UsageError(f"--project {project}: {error.strerror}") from error


def mistake(error: CycloptsError) -> str:
    """What is wrong with the command line, in one line that names options as they are typed."""
    from pydantic import ValidationError

    from litmeter.settings import explain

    if isinstance(error.__cause__, ValidationError) and error.argument is not None:
        said = explain(error.__cause__)
        options = {child.keys[-1]: child.name for child in error.argument.children}
        if not options:  # the argument is an option by itself, no group
            return f"{error.argument.name}: {said.removeprefix(': ')}"
        return re.sub(r"\w+", lambda word: options.get(word[0], word[0]), said)
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        return "; ".join(filter(None, [f"{error.argument.name}: missing", error.argument.parameter.help]))
    error.verbose = False
    return " ".join(str(error).split()).partition(" Available commands:")[0].rstrip(".")  # --help lists all


@app.command(
    help_epilogue="""examples:
  litmeter serve                    # http://127.0.0.1:8000 has a page to try it
  litmeter serve server:MyAPI transport=direct max_batch_size=8
  LIT_SERVER_API_KEY=... litmeter serve --host 0.0.0.0 \\
      --certificate chain.pem --certificate-key key.pem --no-docs"""
)
def serve(
    server: str | None = None,
    /,
    *keys: str,
    port: Annotated[int, Parameter(validator=Number(gte=1024, lte=65535))] = DEFAULT_PORT,
    host: Literal["127.0.0.1", "0.0.0.0", "::"] = "127.0.0.1",
    certificate: Path | None = None,
    certificate_key: Path | None = None,
    metrics: Annotated[bool, Parameter(negative="--no-metrics", show_default=False)] = True,
    docs: Annotated[bool, Parameter(negative="--no-docs", show_default=False)] = True,
) -> int:
    """Serve what the section serve of params.yaml names: the exported model, or a server of your own.

    Args:
        server: a LitAPI of your own instead, module:Class from the current folder
        keys: its settings, keys of serve: as key=value
        port: TCP port
        host: address to listen on; other machines can reach 0.0.0.0 and ::, which need an API key in the
            environment variable LIT_SERVER_API_KEY
        certificate: certificate with its chain (PEM), for HTTPS
        certificate_key: the certificate's private key (PEM)
        metrics: serve /metrics, or not
        docs: serve /openapi.json, or not
    """
    from litmeter.direct.binding import Binding
    from litmeter.kinds.server import Start, StartedServer, wait_in_foreground
    from litmeter.params import params_here
    from litmeter.settings import PARAMS_FILE

    binding = Binding(port, host, certificate, certificate_key, metrics=metrics, docs=docs)
    binding.check()
    if server is not None:
        # These import what measures: memory that a served project saves.
        from litmeter.cli.options import LOAD
        from litmeter.cli.own import OWN, device_here, own_server

        settings = own_server(server, keys, OWN, "module:Class")
        device, timeout_s = device_here(), LOAD.timeout_s
        if not settings.served_by_litmeter:
            raise UsageError(f"expected module:Class, got {server!r}")
    else:
        params, device = params_here()
        settings, timeout_s = params.serve, params.load.timeout_s
        if "serve" not in params.model_fields_set:
            raise ParamsError(f"{PARAMS_FILE}: serve: missing; it says what is served")
        if not settings.is_started:
            raise UsageError(f"serve: {settings.spec} runs already")
        if not settings.served_by_litmeter and binding != Binding(port):
            raise UsageError(f"serve: names a {settings.kind}, which has options of its own; allowed: --port")
    settings.check_there()
    for note in settings.foreground_notes(device):
        print(note, flush=True)
    page = ", and {url} is a page to try it" if settings.page else ""
    with settings.starting(Start(device, timeout_s, binding, in_foreground=True)) as started:
        assert isinstance(started, StartedServer)
        return wait_in_foreground(started, page, settings.drain_limit_s)


@app.command(
    help_epilogue="""examples:
  litmeter predict cat.jpg dog.jpg
  litmeter predict --url https://cats.example.org --ca authority.pem cat.jpg"""
)
def predict(
    *images: Annotated[Path, Parameter(name="IMAGE", required=True)],
    url: str = f"http://127.0.0.1:{DEFAULT_PORT}",
    ca: Path | None = None,
) -> int:
    """Classify photos with a running server.

    The exit status is 1 if a photo was refused, or cannot be read.

    Args:
        images: image files
        url: URL of the server
        ca: CA certificates to trust with HTTPS (PEM)
    """
    from litmeter.classifier.server.client import Client

    client, failed = Client(url, ca), 0
    for path in images:
        try:
            status, content = client.predict(path.read_bytes())
        except OSError as error:
            status, content = 0, error.strerror
        if status == 200:
            print(f"{path}: {content['label']} ({content['probability']:.3f})", flush=True)
        else:
            said = f"refused, {status}: {content}" if status else content
            print(f"{path}: {said}", file=sys.stderr)
            failed += 1
    return 1 if failed else 0


app.command(
    "litmeter.cli.compare:compare",
    help="Compare servers, of params.yaml or your own: which is faster, by how much, and how sure that is.",
    help_epilogue="""examples:
  litmeter compare e7_tuned candidate --seconds 180
  litmeter compare one='server:MyAPI' eight='server:MyAPI max_batch_size=8' \\
      --body request.json --report report.html
  litmeter compare 'python a.py --port {port}' 'python b.py --port {port}' --form image=@cat.jpg
  litmeter compare candidate candidate --json     # two servers of one configuration: chance alone""",
)
app.command(
    "litmeter.cli.init:init",
    help="Write a DVC project for a server of your own: settings worth comparing, stages, dependencies.",
    help_epilogue="""examples:
  litmeter init server.py --body request.json      # or server.py:MyAPI
  litmeter init 'server.py:MyAPI api_kwargs.size=small' --body bodies.jsonl
  litmeter init 'python server.py --port {port}' --body request.json""",
)
app.command(
    "litmeter.cli.check:check",
    help="Check whether the working tree serves slower than a revision, as an exit status.",
    help_epilogue="""examples:
  litmeter check --against main                       # what params.yaml says, of both
  litmeter check server.py --against main --body request.json
  litmeter check --against HEAD~1 --configuration e7_tuned --seconds 360 --margin 0.03

exit status: 0 not slower by the margin, with 95% certainty; 1 slower, in rate or p95, or it
  fails requests or exceeds a limit; 3 open; 2 no verdict, as when one of both does not start""",
)
app.command(
    "litmeter.cli.load:loadtest",
    help="Load-test a server at any URL with the pipeline's load generator.",
    help_epilogue="""examples:
  litmeter loadtest --url http://127.0.0.1:8000/predict --images . \\
      --content-type image/jpeg --users 1,8
  litmeter loadtest --url http://10.0.0.7/v1/classify --body a.json \\
      --rate 200 --slo-ms 100
  litmeter loadtest --url http://127.0.0.1:8501/v1/models/pets:predict \\
      --images *.jpg --template '{"instances": [{"b64": "{image}"}]}'""",
)
app.command(
    "litmeter.cli.load:capacity",
    help="How many requests a second a server at any URL can take, nearly all of them in time.",
    help_epilogue="""examples:
  litmeter capacity --url http://127.0.0.1:8000/predict --images . \\
      --content-type image/jpeg --slo-ms 100 --picture capacity.png
  litmeter capacity --url http://10.0.0.7/v1/classify --body a.json \\
      --slo-ms 100 --trace access.log     # how many times these requests""",
)
app.command(
    "litmeter.cli.machines:machines",
    help="How many machines a rate of requests needs, what they cost, and which is cheapest.",
    help_epilogue="""examples:
  litmeter machines --rate 1000 --price 0.17   # 0.17 for an hour of this one
  litmeter machines small large --rate 1000 \\
      --price small=0.09 --price large=0.17    # branches with results of each""",
)
app.command(
    "litmeter.cli.tune:tune",
    help="Search the fastest settings on this machine, of params.yaml's serve:, or of a server of your own.",
    help_epilogue="""examples:
  litmeter tune server.py --body request.json      # or server:MyAPI
  litmeter tune              # a search that was stopped goes on
  litmeter tune --apply      # writes the winner into params.yaml""",
)
app.command(
    "litmeter.cli.quick:quick",
    name="quick",
    help="Compare all configurations within minutes, with wide intervals; nothing is kept.",
    help_epilogue="examples:\n  litmeter quick              # what `make quick` does",
)
app.command(
    "litmeter.report.changes:show_experiments",
    name="experiments",
    help="Show the rates of all experiments of `dvc exp run`, what each changed, and what came of it.",
    help_epilogue="examples:\n  litmeter experiments        # what `make experiments` does",
)
app.command(
    "litmeter.report.pages:write_results",
    name="results",
    help="Write docs/results.md, or the README's results, from the results of the last run.",
    help_epilogue="""examples:
  dvc repro && litmeter results       # what `make run` does
  litmeter results --readme           # the README's table and its picture, before a release""",
)
app.command(
    "litmeter.report.pages:write_report",
    name="report",
    help="Write report.html: all results in a page that opens anywhere, without a network.",
    help_epilogue="""examples:
  litmeter report                     # of this tree, as `make run` does
  litmeter report HEAD~1 HEAD         # what changed, and how sure that is
  litmeter report HEAD my-experiment  # an experiment of `dvc exp run`""",
)


@app.command(
    help_epilogue="""examples:
  litmeter stage machine              # cmd: of a stage in dvc.yaml
  litmeter stage benchmark candidate"""
)
def stage(name: str, argument: str | None = None, /) -> int:
    """Run a stage, as dvc.yaml says; `dvc repro` runs all.

    Args:
        name: of the stage
        argument: of benchmark: a configuration
    """
    from litmeter.stages.__main__ import main as run

    return run([name, *filter(None, [argument])])


@app.command(help_epilogue="examples:\n  litmeter verify     # takes 90 seconds; writes metrics/verify.json")
def verify() -> int:
    """Test load generator and measurement against a server of known speed, and against wrk."""
    from litmeter.selftest import main as test

    return test()


if __name__ == "__main__":
    sys.exit(main())
