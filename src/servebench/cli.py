"""The command ``servebench``: serve the exported model, ask a server, write the README's results."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import requests

from servebench.errors import ServebenchError, ServerError

DEFAULT_PORT = 8000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; its exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except ServebenchError as error:
        print(f"servebench: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="servebench", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve the exported model as params.yaml's serve says")
    serve.add_argument("--port", type=int, default=DEFAULT_PORT, help="on 127.0.0.1 (%(default)s)")
    serve.set_defaults(run=_serve)
    predict = commands.add_parser("predict", help="ask a running server what photos show")
    predict.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    predict.add_argument("--url", default=f"http://127.0.0.1:{DEFAULT_PORT}", help="(%(default)s)")
    predict.set_defaults(run=_predict)
    readme = commands.add_parser("readme", help="write the results into README.md, from the metrics")
    readme.set_defaults(run=_readme)
    return parser


# The rooms are imported by the command that needs them: `servebench predict` does not need torch.


def _serve(options: argparse.Namespace) -> int:
    import torch

    from servebench.device import resolve_device
    from servebench.params import load_params
    from servebench.paths import EXPORT_FOLDER
    from servebench.serving.running import serve_in_foreground

    params = load_params()
    device = resolve_device(params.device, torch.cuda.is_available())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    return serve_in_foreground(EXPORT_FOLDER, params.serve, device, params.load.timeout_s, options.port)


def _predict(options: argparse.Namespace) -> int:
    from servebench.load.bodies import CONTENT_TYPE, photo_body

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
                headers={"Content-Type": CONTENT_TYPE},
                timeout=60,
            )
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


if __name__ == "__main__":
    sys.exit(main())
