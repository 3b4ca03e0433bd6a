"""The command ``servebench``: serve the model, ask or load a server, test the instrument, write results."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import requests

from servebench.arguments import count, levels, port, positive_seconds, rate, seconds
from servebench.errors import LoadError, ServebenchError, ServerError, storage_error
from servebench.leftovers import tidy_up

DEFAULT_PORT = 8000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; its exit status."""
    options = _parser().parse_args(arguments)
    try:
        tidy_up("servebench")
        return int(options.run(options))
    except ServebenchError as error:
        print(f"servebench: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        explained = storage_error(error)
        if explained is None:
            raise
        print(f"servebench: {explained}", file=sys.stderr)
        return explained.exit_code


class _Parser(argparse.ArgumentParser):
    """A mistake is one line; the usage is what --help is for."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; --help explains\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="servebench", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve the exported model as params.yaml's serve says")
    add = serve.add_argument
    add("--port", type=port, default=DEFAULT_PORT, metavar="N", help="(%(default)s)")
    add(
        "--host",
        choices=("127.0.0.1", "0.0.0.0", "::"),
        default="127.0.0.1",
        help="where it listens (%(default)s); with any other, which others can reach, the environment's "
        "LIT_SERVER_API_KEY must hold a key",
    )
    add("--certificate", type=Path, metavar="FILE", help="PEM, with its chain: serve HTTPS")
    add("--key", type=Path, metavar="FILE", help="PEM: the certificate's private key")
    add("--no-metrics", action="store_true", help="close /metrics")
    add("--no-docs", action="store_true", help="close /docs, /redoc and /openapi.json")
    serve.set_defaults(run=_serve)
    predict = commands.add_parser("predict", help="ask a running server what photos show")
    predict.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    predict.add_argument("--url", default=f"http://127.0.0.1:{DEFAULT_PORT}", help="(%(default)s)")
    predict.add_argument("--ca", type=Path, metavar="FILE", help="PEM: whose certificates to trust (HTTPS)")
    predict.set_defaults(run=_predict)
    readme = commands.add_parser("readme", help="write the results into README.md, from the metrics")
    readme.set_defaults(run=_readme)
    verify = commands.add_parser("verify", help="test the load generator and the measuring")
    verify.set_defaults(run=_verify)
    _add_bench(commands.add_parser("bench", help="measure any server with the same load generator"))
    return parser


def _add_bench(bench: argparse.ArgumentParser) -> None:
    """Defaults are those of params.yaml's ``load``, which this command does without."""
    add = bench.add_argument
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
    bench.set_defaults(run=_bench)


# The rooms are imported by the command that needs them: `servebench predict` does not need torch.


def _serve(options: argparse.Namespace) -> int:
    import torch

    from servebench.card import read_card
    from servebench.compiled.manifest import read_manifest
    from servebench.device import resolve_device
    from servebench.params import load_params
    from servebench.paths import COMPILED_FOLDER, EXPORT_FOLDER
    from servebench.serving.exposure import Exposure
    from servebench.serving.running import serve_in_foreground

    exposure = Exposure(
        options.port,
        options.host,
        options.certificate,
        options.key,
        metrics=not options.no_metrics,
        docs=not options.no_docs,
    )
    exposure.check()

    params = load_params()
    device = resolve_device(params.device, torch.cuda.is_available())
    read_card(EXPORT_FOLDER)
    if params.serve.compiled:  # said here in one line, not by each worker in its log
        read_manifest(COMPILED_FOLDER, EXPORT_FOLDER, torch.device(device))
    _end_by_sigterm()
    return serve_in_foreground(EXPORT_FOLDER, params.serve, device, params.load.timeout_s, exposure)


def _predict(options: argparse.Namespace) -> int:
    from servebench.load.bodies import CONTENT_TYPE, photo_body
    from servebench.serving.exposure import check_authorities
    from servebench.serving.key import KEY_HEADER, api_key

    if options.ca is not None:
        check_authorities(options.ca)
    key = api_key()
    headers = {"Content-Type": CONTENT_TYPE} | ({KEY_HEADER: key} if key else {})
    failed = 0
    for path in options.images:
        try:
            body = photo_body(path.read_bytes())
        except OSError as error:
            print(f"{path}: {error.strerror}", file=sys.stderr)
            failed += 1
            continue
        try:
            answer = requests.post(
                f"{options.url}/predict",
                data=body,
                headers=headers,
                timeout=60,
                verify=str(options.ca) if options.ca else True,
            )
        except requests.exceptions.SSLError as error:
            raise ServerError(f"{options.url} cannot be trusted ({error}); --ca names who vouches") from error
        except requests.RequestException as error:
            raise ServerError(
                f"no answer from {options.url} ({type(error).__name__}); `make serve` starts a server"
            ) from error
        if answer.status_code == 200:
            content = answer.json()
            print(f"{path}: {content['label']} ({content['probability']:.3f})", flush=True)
        else:
            print(f"{path}: refused, {answer.status_code}: {answer.text[:200]}", file=sys.stderr)
            failed += 1
    return 1 if failed else 0


def _readme(options: argparse.Namespace) -> int:
    from servebench.report.readme import write_results_section

    write_results_section()
    return 0


def _verify(options: argparse.Namespace) -> int:
    from servebench.verify.run import main as verify

    _end_by_sigterm()
    return verify()


def _bench(options: argparse.Namespace) -> int:
    from servebench.bench import bench, request_bodies, request_headers
    from servebench.load import LevelPlan

    min_s, max_s = options.seconds
    if min_s > max_s:
        raise LoadError(f"--seconds: the minimum ({min_s:g}) is above the maximum ({max_s:g})")
    plan = [
        LevelPlan(
            users=users,
            requests=options.requests,
            warmup_s=options.warmup_s,
            min_s=min_s,
            max_s=max_s,
            max_windows=options.max_windows,
            timeout_s=options.timeout_s,
            seed=options.seed,
            rate_rps=options.rate,
        )
        for users in ((options.connections,) if options.rate else options.users)
    ]
    headers = request_headers(options.header)
    bodies = request_bodies(options.body_file, options.images, options.template)
    _end_by_sigterm()
    return bench(options.url, bodies, options.content_type, headers, plan, options.out)


def _end_by_sigterm() -> None:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that what was started is stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


if __name__ == "__main__":
    sys.exit(main())
