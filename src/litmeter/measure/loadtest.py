"""``litmeter loadtest``: measure any server at any URL with the pipeline's load generator."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from litmeter.load import LoadPlan
from litmeter.load.generator import load_bar
from litmeter.load.senders import Sender
from litmeter.measure.levels import latency_grows, level_row
from litmeter.measure.rows import LevelRow
from litmeter.measure.target import Target
from litmeter.measure.telemetry import Usage
from litmeter.stats.records import ALLOWED_LATE, LoadRecord, goodput_rps, late_share
from litmeter.system.files import check_writable, write_rows
from litmeter.system.machine import exclusive_machine
from litmeter.system.tables import text_table

COLUMNS = (
    "users",
    "req/s",
    "95% interval",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "sent",
    "ok",
    "failed",
    "timed out",
    "client CPU",
    "verdict",
)
NO_OBJECTIVE = "no objective given (--slo-ms)"
GROWS = "latency grows: the server may be overloaded"


def loadtest(
    target: Target,
    plans: Sequence[LoadPlan],
    slo_ms: float | None,
    out: Path | None,
    senders: AbstractContextManager[Sender],
) -> int:
    """Load ``target`` at every level of ``plans``, print a row for each.

    Args:
        slo_ms: the objective: at most ALLOWED_LATE of the requests may fail or take longer.
        out: a CSV file for the rows.
        senders: start what sends the requests.

    Returns:
        0 where all levels are valid and keep the objective, else 1.

    Raises:
        ServerError: the first request is not answered with 200; LoadError: the load generator failed;
            StorageError: ``out`` cannot be written, which is checked before anything is sent.
    """
    if out is not None:
        check_writable([out])
    with exclusive_machine():
        target.check_first_request(plans[0].timeout_s)
        with senders as sender, load_bar(plans, "load") as update_bar:
            records = [sender.run(target.url, plan, on_progress=update_bar) for plan in plans]
    rows = [load_row(record) for record in records]
    findings = [objective_finding(record, slo_ms) for record in records]
    cells = [
        level_cells(row, plan, finding) for row, plan, (finding, _) in zip(rows, plans, findings, strict=True)
    ]
    print(text_table(COLUMNS, cells))
    if out is not None:
        write_rows(out, LevelRow, rows)
    return 0 if all(row.valid for row in rows) and all(kept for _, kept in findings) else 1


def load_row(record: LoadRecord) -> LevelRow:
    """The level's row; of an open loop that passes for valid, with a warning where latencies grow."""
    row = level_row(record, Usage(client_cores=record.cores))
    if record.rate_rps is None or not row.valid or not latency_grows(record):
        return row
    return replace(row, warnings="; ".join(filter(None, (row.warnings, GROWS))))


def objective_finding(record: LoadRecord, slo_ms: float | None) -> tuple[str, bool]:
    """What is to be said of the objective, and whether the load keeps it.

    An open loop without one may be valid with any latency, and says that; a closed loop measures the rate.
    """
    if slo_ms is None:
        return "" if record.rate_rps is None else NO_OBJECTIVE, True
    late = late_share(record, slo_ms)
    if late is None:
        return "", True
    if late <= ALLOWED_LATE:
        return f"{goodput_rps(record, slo_ms):.1f} req/s within {slo_ms:g} ms", True
    missed = f"{late:.1%} failed or took longer than {slo_ms:g} ms, allowed: {ALLOWED_LATE:.0%}"
    return f"objective missed: {missed}; {goodput_rps(record, slo_ms):.1f} req/s within it", False


def level_cells(row: LevelRow, plan: LoadPlan, finding: str) -> list[str]:
    """A level as a row of the table; ``finding`` is about the objective."""
    client = row.client_cores
    verdict = "valid" if row.valid else f"not valid: {row.invalid_reason}"
    return [
        str(row.users) if plan.rate_rps is None else f"{plan.rate_rps:.6g}/s",
        f"{row.throughput_rps:.1f}",
        f"{row.low_rps:.1f} to {row.high_rps:.1f}",
        *("-" if ms is None else f"{ms:.1f}" for ms in (row.p50_ms, row.p95_ms, row.p99_ms)),
        *(str(count) for count in (row.sent, row.ok, row.failed, row.timed_out)),
        "-" if client is None else f"{client:.0%}",
        "; ".join(filter(None, (verdict, finding, row.warnings))),
    ]
