"""The subcommands. Each imports its packages when it is run, so that ``predict`` does not load torch."""

from __future__ import annotations

import argparse
import signal
import sys


def serve(options: argparse.Namespace) -> int:
    """Serve the exported model until SIGTERM or Ctrl-C; return the exit status."""
    from litmeter.inference.compiled.manifest import split_note
    from litmeter.inference.device import check_precision, resolve_device
    from litmeter.params import load_params
    from litmeter.paths import MODEL
    from litmeter.serving.binding import Binding
    from litmeter.serving.launcher import check_model, serve_in_foreground
    from litmeter.system.machine import cuda_available

    binding = Binding(
        options.port,
        options.host,
        options.certificate,
        options.certificate_key,
        metrics=not options.no_metrics,
        docs=not options.no_docs,
    )
    binding.check()
    params = load_params()
    device = resolve_device(params.device, cuda_available())
    check_precision(params.serve.precision, device)
    check_model(MODEL, params.serve)
    if note := split_note(MODEL, device, params.serve):  # fails here instead of in the log of each worker
        print(note)
    _exit_on_sigterm()
    return serve_in_foreground(MODEL, params.serve, device, params.load.timeout_s, binding)


def predict(options: argparse.Namespace) -> int:
    """Print a server's prediction for each image; return 1 if any was refused or cannot be read."""
    from litmeter.serving.client import Client

    client = Client(options.url, options.ca)
    failed = 0
    for path in options.images:
        try:
            status, content = client.predict(path.read_bytes())
        except OSError as error:
            print(f"{path}: {error.strerror}", file=sys.stderr)
            failed += 1
            continue
        if status == 200:
            print(f"{path}: {content['label']} ({content['probability']:.3f})", flush=True)
        else:
            print(f"{path}: refused, {status}: {content}", file=sys.stderr)
            failed += 1
    return 1 if failed else 0


def loadtest(options: argparse.Namespace) -> int:
    """Load-test a server at any URL, and print a row per level; return the exit status.

    Raises:
        UsageError: options contradict each other; LoadError: there is nothing to send.
    """
    from litmeter.benchmark.loadtest import loadtest
    from litmeter.cli.load_options import load_plans, senders, target

    plans, server = load_plans(options), target(options)
    _exit_on_sigterm()
    return loadtest(server, plans, options.slo_ms, options.out, senders(options, server))


def sender(options: argparse.Namespace) -> int:
    """Send shares of the loads of another machine until it is done; return the exit status.

    Raises:
        UsageError: there is no shared key, or another one; LoadError: the machine cannot be reached.
    """
    from litmeter.loadgen.remote import join

    _exit_on_sigterm()
    join(options.join, lambda text: print(text, flush=True))
    return 0


def capacity(options: argparse.Namespace) -> int:
    """Search the highest rate at which a server at any URL keeps to an objective; return the exit status.

    Raises:
        UsageError: options contradict each other; LoadError: there is nothing to send.
    """
    from litmeter.cli.capacity import main

    _exit_on_sigterm()
    return main(options)


def tune(options: argparse.Namespace) -> int:
    """Search the fastest configuration, or write the one that was found into params.yaml.

    Raises:
        LitmeterError: nothing can run, something failed, or there is nothing to write.
    """
    from litmeter.cli.tune import main

    _exit_on_sigterm()
    return main(options)


def machines(options: argparse.Namespace) -> int:
    """Print how many machines a rate needs, by the measured capacity; return 1 where it is not known."""
    from litmeter.params import load_params
    from litmeter.report.capacity import capacity_sentence, machines_needed, read_capacity

    params = load_params()
    params.configuration(options.configuration)
    capacity = read_capacity(params, options.configuration)
    print(capacity_sentence(options.configuration, capacity, options.rate))
    return 0 if machines_needed(capacity, options.rate) else 1


def verify(options: argparse.Namespace) -> int:
    """Run the self-test of load generator and measurement; return the exit status."""
    from litmeter.selftest.run import main

    _exit_on_sigterm()
    return main()


def quick(options: argparse.Namespace) -> int:
    """Compare all configurations in a temporary copy of the project; return the exit status."""
    from litmeter.cli.quick import main

    _exit_on_sigterm()
    return main()


def results(options: argparse.Namespace) -> int:
    """Write the pipeline's results to docs/results.md and README.md."""
    from litmeter.report.results_page import write_results

    write_results()
    return 0


def report(options: argparse.Namespace) -> int:
    """Write report.html, of this tree or of revisions side by side.

    Raises:
        UsageError: there is no such revision; ReportError: a result is missing.
    """
    from litmeter.report.html.write import write_report

    write_report(options.revisions, options.out)
    return 0


def _exit_on_sigterm() -> None:
    """Make SIGTERM raise SystemExit, so that context managers stop the processes that they started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
