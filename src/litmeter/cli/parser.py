"""The argument parser: subcommands, their options and examples."""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path

from litmeter.cli import commands
from litmeter.cli.arguments import port
from litmeter.cli.command_parser import Parser, Subparsers, add_command
from litmeter.cli.load_parsers import add_capacity, add_loadtest, add_sender

DEFAULT_PORT = 8000


def make_parser() -> argparse.ArgumentParser:
    """Build the parser of ``litmeter``; the parsed options have the subcommand's function as ``run``."""
    parser = Parser(
        prog="litmeter",
        description="Serve the model that the pipeline has exported, ask it, and load-test any server.",
        epilog="`dvc repro` runs the pipeline; each command's --help has examples.",
    )
    parser.add_argument("--version", action="version", version=f"litmeter {version('litmeter')}")
    parser.add_argument(
        "--project",
        type=Path,
        metavar="FOLDER",
        help="folder of the project, with params.yaml (default: the current one)",
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        _add_serve,
        _add_predict,
        add_loadtest,
        add_capacity,
        add_sender,
        _add_tune,
        _add_quick,
        _add_verify,
        _add_results,
        _add_report,
    ):
        add(subparsers)
    return parser


def _add_serve(subparsers: Subparsers[Parser]) -> None:
    serve = add_command(
        subparsers,
        "serve",
        "serve the exported model, configured by the section serve of params.yaml",
        "  litmeter serve                      # http://127.0.0.1:8000 has a page to try it\n"
        "  LIT_SERVER_API_KEY=... litmeter serve --host 0.0.0.0 \\\n"
        "      --certificate chain.pem --certificate-key key.pem --no-docs",
    )
    add = serve.add_argument
    add("--port", type=port, default=DEFAULT_PORT, metavar="N", help="(%(default)s)")
    add(
        "--host",
        choices=("127.0.0.1", "0.0.0.0", "::"),
        default="127.0.0.1",
        help="address to listen on (%(default)s); other machines can reach 0.0.0.0 and ::, which need an "
        "API key in the environment variable LIT_SERVER_API_KEY",
    )
    add("--certificate", type=Path, metavar="FILE", help="certificate with its chain (PEM), for HTTPS")
    add("--certificate-key", type=Path, metavar="FILE", help="the certificate's private key (PEM)")
    add("--no-metrics", action="store_true", help="do not serve /metrics")
    add("--no-docs", action="store_true", help="do not serve /docs, /redoc and /openapi.json")
    serve.set_defaults(run=commands.serve)


def _add_predict(subparsers: Subparsers[Parser]) -> None:
    predict = add_command(
        subparsers,
        "predict",
        "classify photos with a running server",
        "  litmeter predict cat.jpg dog.jpg\n"
        "  litmeter predict --url https://classifier.example.org:8000 --ca authority.pem cat.jpg",
    )
    predict.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    predict.add_argument("--url", default=f"http://127.0.0.1:{DEFAULT_PORT}", help="(%(default)s)")
    predict.add_argument("--ca", type=Path, metavar="FILE", help="CA certificates to trust with HTTPS (PEM)")
    predict.set_defaults(run=commands.predict)


def _add_tune(subparsers: Subparsers[Parser]) -> None:
    tune = add_command(
        subparsers,
        "tune",
        "search the fastest configuration for this model and machine, among those that tune: names",
        "  litmeter tune               # what `make tune` does; a search that was stopped goes on\n"
        "  litmeter tune --apply       # writes the winner into params.yaml",
    )
    tune.add_argument("--apply", action="store_true", help="write the last search's winner into params.yaml")
    tune.set_defaults(run=commands.tune)


def _add_quick(subparsers: Subparsers[Parser]) -> None:
    quick = add_command(
        subparsers,
        "quick",
        "compare all configurations within minutes, with wide intervals; nothing is kept",
        "  litmeter quick              # what `make quick` does",
    )
    quick.set_defaults(run=commands.quick)


def _add_verify(subparsers: Subparsers[Parser]) -> None:
    verify = add_command(
        subparsers,
        "verify",
        "test load generator and measurement against a server of known speed, and against wrk",
        "  litmeter verify             # takes 90 seconds; writes metrics/verify.json, docs/self-test.md",
    )
    verify.set_defaults(run=commands.verify)


def _add_results(subparsers: Subparsers[Parser]) -> None:
    results = add_command(
        subparsers,
        "results",
        "write docs/results.md, or the README's results, from the results of the last run",
        "  dvc repro && litmeter results       # what `make run` does\n"
        "  litmeter results --readme           # the README's table and its picture, before a release",
    )
    results.add_argument("--readme", action="store_true", help="write into README.md, and nothing else")
    results.set_defaults(run=commands.results)


def _add_report(subparsers: Subparsers[Parser]) -> None:
    report = add_command(
        subparsers,
        "report",
        "write report.html: all results in a page that opens anywhere, without a network",
        "  litmeter report                     # of this tree, as `make run` does\n"
        "  litmeter report HEAD~1 HEAD         # what changed, and how sure that is\n"
        "  litmeter report HEAD my-experiment  # an experiment of `dvc exp run`, by its name",
    )
    report.add_argument(
        "revisions", nargs="*", metavar="REVISION", help="commits or experiments; the last is shown in full"
    )
    report.add_argument("--out", type=Path, default=Path("report.html"), help="the file (report.html)")
    report.set_defaults(run=commands.report)
