"""``litmeter capacity``: how many requests a second a server at any URL can take under an objective."""

from __future__ import annotations

import argparse

from litmeter.benchmark.capacity import ProbeRow, measure_capacity
from litmeter.cli.load_options import senders, target
from litmeter.params import ObjectiveSettings
from litmeter.report.charts import capacity
from litmeter.report.drawing import save_png
from litmeter.report.printed import capacity_text
from litmeter.system.files import check_writable, write_rows
from litmeter.system.machine import exclusive_machine
from litmeter.system.progress import print_wrapped
from litmeter.system.tables import text_table

COLUMNS = ("probe", "asked/s", "due/s", "peak/s", "missed", "p50 ms", "p95 ms", "p99 ms", "in time/s", "")


def main(options: argparse.Namespace) -> int:
    """Search, print the probes and the capacity; 0 where it is resolved, or held at all rates, else 1.

    Raises:
        UsageError: options contradict each other; ServerError: the first request is not answered with 200;
        LoadError: the load generator failed, or there is nothing to send; StorageError: a file cannot be
            written, which is checked before anything is sent.
    """
    objective = ObjectiveSettings(
        slo_ms=options.slo_ms,
        miss=options.miss,
        configurations=("any",),
        tolerance=options.tolerance,
        probe_requests=options.probe_requests,
        max_s=options.max_s,
        seed=options.seed,
    )
    server = target(options)
    check_writable([path for path in (options.out, options.picture) if path is not None])
    with exclusive_machine():
        server.check_first_request(options.timeout_s)
        with senders(options, server) as sender:
            result = measure_capacity(sender, server.url, objective, options.timeout_s, "search")
    print(text_table(COLUMNS, [_cells(number, row) for number, row in enumerate(result.rows, 1)]))
    if options.out is not None:
        write_rows(options.out, ProbeRow, result.rows)
    if options.picture is not None:
        save_png(options.picture, capacity(options.url, result))
    print_wrapped(f"{options.url} {capacity_text(result.metrics)}")
    return 0 if result.metrics.status in ("resolved", "above_range") else 1


def _cells(number: int, row: ProbeRow) -> list[str]:
    latencies = ("-" if ms is None else f"{ms:.1f}" for ms in (row.p50_ms, row.p95_ms, row.p99_ms))
    return [
        str(number),
        *(f"{rate:.1f}" for rate in (row.asked_rps, row.rate_rps, row.peak_rps)),
        f"{row.missed:.1%}",
        *latencies,
        f"{row.goodput_rps:.1f}",
        f"void: {row.void_reason}" if row.void_reason else row.phase,
    ]
