"""The argument parser: subcommands, their options and examples."""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from servebench.cli import commands
from servebench.cli.arguments import levels, milliseconds, port, positive_int, positive_seconds, rate, seconds

DEFAULT_PORT = 8000


class Parser(argparse.ArgumentParser):
    """A parser that reports an error in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with status 2."""
        self.exit(2, f"{self.prog}: {message}; --help explains\n")


def make_parser() -> argparse.ArgumentParser:
    """Build the parser of ``servebench``; the parsed options have the subcommand's function as ``run``."""
    parser = Parser(
        prog="servebench",
        description="Serve the model that the pipeline has exported, ask it, and load-test any server.",
        epilog="`dvc repro` runs the pipeline; each command's --help has examples.",
    )
    parser.add_argument("--version", action="version", version=f"servebench {version('servebench')}")
    parser.add_argument(
        "--project",
        type=Path,
        metavar="FOLDER",
        help="folder of the project, with params.yaml (default: the current one)",
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_serve, _add_predict, _add_loadtest, _add_quick, _add_verify, _add_results):
        add(subparsers)
    return parser


Subparsers = argparse._SubParsersAction


def _add(
    subparsers: Subparsers[Parser], name: str, summary: str, examples: str, aliases: tuple[str, ...] = ()
) -> Parser:
    """Add a subcommand with its summary, and examples below its options."""
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
        "serve the exported model, configured by the section serve of params.yaml",
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
        help="address to listen on (%(default)s); other machines can reach 0.0.0.0 and ::, which need an "
        "API key in the environment variable LIT_SERVER_API_KEY",
    )
    add("--certificate", type=Path, metavar="FILE", help="certificate with its chain (PEM), for HTTPS")
    add("--certificate-key", type=Path, metavar="FILE", help="the certificate's private key (PEM)")
    add("--no-metrics", action="store_true", help="do not serve /metrics")
    add("--no-docs", action="store_true", help="do not serve /docs, /redoc and /openapi.json")
    serve.set_defaults(run=commands.serve)


def _add_predict(subparsers: Subparsers[Parser]) -> None:
    predict = _add(
        subparsers,
        "predict",
        "classify photos with a running server",
        "  servebench predict cat.jpg dog.jpg\n"
        "  servebench predict --url https://classifier.example.org:8000 --ca authority.pem cat.jpg",
    )
    predict.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    predict.add_argument("--url", default=f"http://127.0.0.1:{DEFAULT_PORT}", help="(%(default)s)")
    predict.add_argument("--ca", type=Path, metavar="FILE", help="CA certificates to trust with HTTPS (PEM)")
    predict.set_defaults(run=commands.predict)


def _add_loadtest(subparsers: Subparsers[Parser]) -> None:
    """Add ``loadtest``; it does not read params.yaml, so its defaults repeat the section ``load``."""
    loadtest = _add(
        subparsers,
        "loadtest",
        "load-test a server at any URL with the pipeline's load generator",
        "  servebench loadtest --url http://127.0.0.1:8000/predict --content-type image/jpeg --images .\n"
        "  servebench loadtest --url http://10.0.0.7/v1/classify --body-file a.json --rate 200 --slo-ms 100\n"
        "  servebench loadtest --url http://127.0.0.1:8501/v1/models/pets:predict --images *.jpg \\\n"
        '      --template \'{"instances": [{"b64": "{image}"}]}\' --out levels.csv',
        aliases=("bench",),
    )
    add = loadtest.add_argument
    add("--url", required=True, help="URL to which each body is sent by POST; status 200 is a good answer")
    add(
        "--body-file",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="file with a request body; repeatable",
    )
    add(
        "--images",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="images, or folders of images: one request body each, the file itself where the content type is "
        "an image's",
    )
    add(
        "--template",
        metavar="JSON",
        help='body of an image otherwise; {image} is replaced by its base64 ({"image": "{image}"})',
    )
    add("--content-type", metavar="TYPE", help="of all bodies (application/json)")
    add("--header", action="append", default=[], metavar="'NAME: VALUE'", help="request header; repeatable")
    add("--ca", type=Path, metavar="FILE", help="CA certificates to trust with HTTPS (PEM)")
    add(
        "--users",
        type=levels,
        metavar="N,N,...",
        help="closed loop: load levels, in concurrent users (1,8)",
    )
    add("--rate", type=rate, metavar="R", help="open loop instead: R requests/s, whatever is answered")
    add(
        "--arrivals",
        choices=("poisson", "constant"),
        help="with --rate: at random times (poisson, the default) or at equal distances",
    )
    add(
        "--trace",
        type=Path,
        metavar="FILE",
        help="open loop instead: requests at the times in this file, a time stamp in seconds a line",
    )
    add("--trace-scale", type=rate, metavar="X", help="with --trace: X times as many requests a second")
    add(
        "--connections",
        type=positive_int,
        metavar="N",
        help="open loop: connections; requests due while all are busy are sent late (256)",
    )
    add(
        "--slo-ms",
        type=milliseconds,
        metavar="MS",
        help="objective: at most 5%% of the requests may fail or take longer; exit status 1 if more do",
    )
    add(
        "--requests",
        type=positive_int,
        default=130,
        metavar="N",
        help="good answers per level, at least; p95 needs 130, p99 662 (%(default)s)",
    )
    add(
        "--seconds",
        type=positive_seconds,
        nargs=2,
        default=(2.5, 4.0),
        metavar=("MIN", "MAX"),
        help="bounds of the total length of three windows (2.5 4)",
    )
    add(
        "--max-windows",
        type=positive_int,
        default=5,
        metavar="N",
        help="windows per level, at most; a level is unstable if its last three differ (%(default)s)",
    )
    add(
        "--warmup-s",
        type=seconds,
        default=0.5,
        metavar="S",
        help="warm-up before the first window (%(default)s)",
    )
    add(
        "--timeout-s",
        type=positive_seconds,
        default=30.0,
        metavar="S",
        help="timeout of a request (%(default)s)",
    )
    add(
        "--seed",
        type=int,
        default=42,
        metavar="N",
        help="seed of arrivals and order of the bodies (%(default)s)",
    )
    add("--out", type=Path, metavar="FILE.csv", help="also write the table as CSV")
    loadtest.set_defaults(run=commands.loadtest)


def _add_quick(subparsers: Subparsers[Parser]) -> None:
    quick = _add(
        subparsers,
        "quick",
        "compare all configurations within minutes, with wide intervals; nothing is kept",
        "  servebench quick              # what `make quick` does",
    )
    quick.set_defaults(run=commands.quick)


def _add_verify(subparsers: Subparsers[Parser]) -> None:
    verify = _add(
        subparsers,
        "verify",
        "test load generator and measurement against a server of known speed, and against wrk",
        "  servebench verify             # takes a minute; writes metrics/verify.json, docs/self-test.md",
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
