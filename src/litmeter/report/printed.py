"""What stages and commands print of results: tables and sentences. No figure is made here."""

from __future__ import annotations

from collections.abc import Sequence

from litmeter.measure.capacity import CapacityMetrics
from litmeter.measure.rows import ComparisonRow
from litmeter.model.device import dtype_name
from litmeter.params import ServeSettings
from litmeter.system.tables import number_cell, pluralise, text_table


def describe(serve: ServeSettings, device: str) -> str:
    """The settings of ``serve`` on ``device`` (cpu or cuda) in words; LitServe's defaults are left out."""
    workers = pluralise(serve.workers_per_device, "worker")
    if serve.threads_per_worker:
        workers += f" of {pluralise(serve.threads_per_worker, 'thread')}"
    parts = [
        dtype_name(serve.precision, device),
        f"max_batch_size {serve.max_batch_size}",
        f"batch_timeout {serve.batch_timeout_s:g} s",
        workers,
        "direct transport" if serve.transport == "direct" else "",
        "compiled" if serve.compiled else "",
        f"{serve.preprocess} preprocessing" if serve.preprocess != "timm" else "",
        "freed memory kept" if serve.keep_freed_memory else "",
    ]
    return ", ".join(filter(None, parts))


def interval_cell(row: ComparisonRow) -> str:
    """The interval of the ratio, or its bound."""
    if row.ratio_high is None:
        return "-"
    if row.ratio_low is None:
        return f"below {row.ratio_high:.2f}"
    return f"{row.ratio_low:.2f} to {row.ratio_high:.2f}"


def efficiency_text(row: ComparisonRow) -> str:
    """The efficiency with its interval, a dash where it is unknown."""
    low, high = row.efficiency_low, row.efficiency_high
    return number_cell(row.efficiency, 2) + ("" if low is None else f" ({low:.2f} to {high:.2f})")


def errors_of_measuring(rows: Sequence[ComparisonRow]) -> list[str]:
    """A sentence for each efficiency that lies above 1 with its whole interval."""
    return [
        f"{row.experiment}, {pluralise(row.users, 'user')}: served faster than in-process, "
        f"{efficiency_text(row)} times: an error of measuring."
        for row in rows
        if row.efficiency_low and row.efficiency_low > 1
    ]


def comparison_table(rows: Sequence[ComparisonRow]) -> str:
    """The comparison for a terminal, fastest first."""
    head = [
        *("configuration", "users", "rank", "req/s", "ratio", "95% interval"),
        *("efficiency", "p95 ms", "rounds"),
    ]
    cells = [
        [
            row.experiment + (" (earlier)" if row.earlier else ""),
            str(row.users),
            number_cell(row.rank, 0),
            number_cell(row.rate_rps, 1),
            number_cell(row.ratio, 2),
            interval_cell(row),
            efficiency_text(row),
            number_cell(row.p95_ms, 0),
            str(row.rounds),
        ]
        for row in sorted(rows, key=lambda row: (row.users, row.rank or len(rows), -(row.ratio or 0.0)))
    ]
    return text_table(head, cells)


def capacity_text(metrics: CapacityMetrics) -> str:
    """What follows the server's name in a sentence of its capacity."""
    within = f"with {100 * (1 - metrics.miss):.4g}% of them within {metrics.slo_ms:g} ms"
    if metrics.status == "above_range":
        return f"takes at least {metrics.low_rps:.1f} requests a second {within}: {metrics.reason}"
    if metrics.status == "slo_unreachable":
        return f"has no rate of requests {within}: {metrics.reason}"
    if metrics.capacity_rps is None:
        return f"has an unknown rate of requests {within}: {metrics.reason}"
    interval = "" if metrics.low_rps is None else f" ({metrics.low_rps:.1f} to {metrics.high_rps:.1f})"
    text = f"takes {metrics.capacity_rps:.1f} requests a second{interval} {within}"
    return f"{text}; {metrics.reason}" if metrics.reason else text
