"""The options of ``loadtest`` and ``capacity``, which load a server at any URL."""

from __future__ import annotations

from pathlib import Path

from litmeter.cli import commands
from litmeter.cli.arguments import (
    address,
    levels,
    milliseconds,
    positive_int,
    positive_seconds,
    rate,
    seconds,
    share,
)
from litmeter.cli.command_parser import Parser, Subparsers, add_command


def _add_request_options(parser: Parser) -> None:
    """Add the options that say where to send what."""
    add = parser.add_argument
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
        "--senders",
        type=positive_int,
        metavar="N",
        help="that many processes send the requests, each its share (1); with --listen: on other machines",
    )
    add(
        "--listen",
        type=address,
        metavar="HOST:PORT",
        help="wait there for the senders, which `litmeter sender --join HOST:PORT` starts",
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


def add_sender(subparsers: Subparsers[Parser]) -> None:
    """Add ``sender``."""
    sender = add_command(
        subparsers,
        "sender",
        "send a share of the load that another machine measures",
        "  litmeter sender --join 10.0.0.1:9000     # where `... --listen 0.0.0.0:9000` waits\n"
        "The environment variable LITMETER_SENDER_KEY holds the same key on all machines.",
    )
    sender.add_argument("--join", type=address, required=True, metavar="HOST:PORT", help="where it listens")
    sender.set_defaults(run=commands.sender)


def add_capacity(subparsers: Subparsers[Parser]) -> None:
    """Add ``capacity``; it does not read params.yaml, so its defaults repeat the section ``objective``."""
    capacity = add_command(
        subparsers,
        "capacity",
        "how many requests a second a server at any URL can take, nearly all of them in time",
        "  litmeter capacity --url http://127.0.0.1:8000/predict --content-type image/jpeg --images . \\\n"
        "      --slo-ms 100 --picture capacity.png",
    )
    _add_request_options(capacity)
    add = capacity.add_argument
    add("--slo-ms", type=milliseconds, default=100.0, metavar="MS", help="what is in time (%(default)s)")
    add("--miss", type=share, default=0.05, metavar="X", help="share that may be late or fail (%(default)s)")
    add(
        "--tolerance",
        type=share,
        default=0.04,
        metavar="X",
        help="how far the interval may reach to either side, as a share of the capacity (%(default)s)",
    )
    add(
        "--probe-requests",
        type=positive_int,
        default=1000,
        metavar="N",
        help="requests at each rate that is tried (%(default)s)",
    )
    add(
        "--max-s",
        type=positive_seconds,
        default=120.0,
        metavar="S",
        help="time for the search; slow servers need more (%(default)s)",
    )
    add("--out", type=Path, metavar="FILE.csv", help="write the probes as CSV")
    add("--picture", type=Path, metavar="FILE.png", help="draw the probes and the capacity")
    capacity.set_defaults(run=commands.capacity)


def add_loadtest(subparsers: Subparsers[Parser]) -> None:
    """Add ``loadtest``; it does not read params.yaml, so its defaults repeat the section ``load``."""
    loadtest = add_command(
        subparsers,
        "loadtest",
        "load-test a server at any URL with the pipeline's load generator",
        "  litmeter loadtest --url http://127.0.0.1:8000/predict --content-type image/jpeg --images .\n"
        "  litmeter loadtest --url http://10.0.0.7/v1/classify --body-file a.json --rate 200 --slo-ms 100\n"
        "  litmeter loadtest --url http://127.0.0.1:8501/v1/models/pets:predict --images *.jpg \\\n"
        '      --template \'{"instances": [{"b64": "{image}"}]}\' --out levels.csv',
        aliases=("bench",),
    )
    _add_request_options(loadtest)
    add = loadtest.add_argument
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
    add("--out", type=Path, metavar="FILE.csv", help="also write the table as CSV")
    loadtest.set_defaults(run=commands.loadtest)
