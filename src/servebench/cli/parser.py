"""Subcommands, their options, and an example of each."""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from servebench.cli import commands
from servebench.cli.arguments import count, levels, port, positive_seconds, rate, seconds

DEFAULT_PORT = 8000


class Parser(argparse.ArgumentParser):
    """A mistake is one line; the usage is what --help is for."""

    def error(self, message: str) -> NoReturn:
        """End with status 2 and one line."""
        self.exit(2, f"{self.prog}: {message}; --help explains\n")


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; ``run`` of what it returns is the subcommand's function."""
    parser = Parser(
        prog="servebench",
        description="Serve the model that the pipeline has exported, ask it, and load-test any server.",
        epilog="`dvc repro` runs the pipeline itself; each command's --help has examples.",
    )
    parser.add_argument("--version", action="version", version=f"servebench {version('servebench')}")
    parser.add_argument(
        "--project", type=Path, metavar="FOLDER", help="the project's folder, with params.yaml (here)"
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_serve, _add_predict, _add_loadtest, _add_verify, _add_results):
        add(subparsers)
    return parser


Subparsers = argparse._SubParsersAction


def _add(
    subparsers: Subparsers[Parser], name: str, summary: str, examples: str, aliases: tuple[str, ...] = ()
) -> Parser:
    """A subcommand with its summary, and examples below its options."""
    return subparsers.add_parser(
        name,
        help=summary,
        aliases=aliases,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_serve(subparsers: Subparsers[Parser]) -> None:
    serve = _add(
        subparsers,
        "serve",
        "serve the exported model as the section serve of params.yaml says",
        "  servebench serve                      # http://127.0.0.1:8000 has a page to try it\n"
        "  LIT_SERVER_API_KEY=... servebench serve --host 0.0.0.0 \\\n"
        "      --certificate chain.pem --certificate-key key.pem --no-docs",
    )
    add = serve.add_argument
    add("--port", type=port, default=DEFAULT_PORT, metavar="N", help="(%(default)s)")
    add(
        "--host",
        choices=("127.0.0.1", "0.0.0.0", "::"),
        default="127.0.0.1",
        help="where to listen (%(default)s); others can reach the other two, which need an API key in the "
        "environment variable LIT_SERVER_API_KEY",
    )
    add("--certificate", type=Path, metavar="FILE", help="PEM, with its chain: serve HTTPS")
    add("--certificate-key", type=Path, metavar="FILE", help="PEM: the certificate's private key")
    add("--no-metrics", action="store_true", help="close /metrics")
    add("--no-docs", action="store_true", help="close /docs and /openapi.json")
    serve.set_defaults(run=commands.serve)


def _add_predict(subparsers: Subparsers[Parser]) -> None:
    predict = _add(
        subparsers,
        "predict",
        "ask a running server what photos show",
        "  servebench predict cat.jpg dog.jpg\n"
        "  servebench predict --url https://classifier.example.org:8000 --ca authority.pem cat.jpg",
    )
    predict.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    predict.add_argument("--url", default=f"http://127.0.0.1:{DEFAULT_PORT}", help="(%(default)s)")
    predict.add_argument("--ca", type=Path, metavar="FILE", help="PEM: whose certificates to trust (HTTPS)")
    predict.set_defaults(run=commands.predict)


def _add_loadtest(subparsers: Subparsers[Parser]) -> None:
    """Defaults are those of params.yaml's ``load``, which this command does without."""
    loadtest = _add(
        subparsers,
        "loadtest",
        "measure any server at any URL with the pipeline's load generator",
        "  servebench loadtest --url http://127.0.0.1:8000/predict --images photos/*.jpg --users 1,8,32\n"
        "  servebench loadtest --url http://10.0.0.7/v1/classify --body-file a.json --rate 200\n"
        "  servebench loadtest --url http://127.0.0.1:8501/v1/models/pets:predict --images *.jpg \\\n"
        '      --template \'{"instances": [{"b64": "{image}"}]}\' --out levels.csv',
        aliases=("bench",),
    )
    add = loadtest.add_argument
    add("--url", required=True, help="where each body is sent by POST; 200 is a good answer")
    add("--body-file", type=Path, action="append", default=[], metavar="FILE", help="a body; repeatable")
    add("--images", type=Path, nargs="+", default=[], metavar="PATH", help="one body per image")
    add(
        "--template",
        default='{"image": "{image}"}',
        metavar="JSON",
        help="body of an image, {image} standing for its base64 (%(default)s)",
    )
    add("--content-type", default="application/json", metavar="TYPE", help="(%(default)s)")
    add("--header", action="append", default=[], metavar="'NAME: VALUE'", help="repeatable")
    add("--users", type=levels, default=(1, 8), metavar="N,N,...", help="levels of a closed loop (1,8)")
    add("--rate", type=rate, metavar="R", help="an open loop instead: R req/s at random (Poisson)")
    add(
        "--connections",
        type=count,
        default=256,
        metavar="N",
        help="of the open loop; what is due while all are busy is sent late (%(default)s)",
    )
    add(
        "--requests",
        type=count,
        default=130,
        metavar="N",
        help="answers per level; p95 needs 130, p99 662 (%(default)s)",
    )
    add(
        "--seconds",
        type=positive_seconds,
        nargs=2,
        default=(2.5, 4.0),
        metavar=("MIN", "MAX"),
        help="bounds of three windows together (2.5 4)",
    )
    add(
        "--max-windows",
        type=count,
        default=5,
        metavar="N",
        help="then a level whose last three differ is unstable (%(default)s)",
    )
    add("--warmup-s", type=seconds, default=0.5, metavar="S", help="thrown away (%(default)s)")
    add("--timeout-s", type=positive_seconds, default=30.0, metavar="S", help="per request (%(default)s)")
    add("--seed", type=int, default=42, metavar="N", help="of the order of the bodies (%(default)s)")
    add("--out", type=Path, metavar="FILE.csv", help="write the table as CSV, too")
    loadtest.set_defaults(run=commands.loadtest)


def _add_verify(subparsers: Subparsers[Parser]) -> None:
    verify = _add(
        subparsers,
        "verify",
        "test the load generator and the measuring against a server that is known, and against wrk",
        "  servebench verify                     # a minute; writes metrics/verify.json, docs/self-test.md",
    )
    verify.set_defaults(run=commands.verify)


def _add_results(subparsers: Subparsers[Parser]) -> None:
    results = _add(
        subparsers,
        "results",
        "write docs/results.md and the README's table from the results of the last run",
        "  dvc repro && servebench results       # what `make run` does",
    )
    results.set_defaults(run=commands.results)
