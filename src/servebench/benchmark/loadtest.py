"""``servebench loadtest``: measure any server at any URL with the pipeline's load generator."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from servebench.benchmark.levels import level_row
from servebench.benchmark.rows import LevelRow
from servebench.benchmark.target import Target
from servebench.benchmark.telemetry import Telemetry, Usage
from servebench.loadgen import LoadPlan, generate
from servebench.loadgen.progress import load_bar
from servebench.stats.objective import ALLOWED_LATE, goodput_rps, late_share
from servebench.stats.records import LoadRecord
from servebench.system.files import check_writable
from servebench.system.machine_lock import exclusive_machine
from servebench.system.rows import write_rows
from servebench.system.tables import text_table

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


def loadtest(target: Target, plans: Sequence[LoadPlan], slo_ms: float | None, out: Path | None) -> int:
    """Load ``target`` at every level of ``plans``, print a row for each.

    Args:
        slo_ms: the objective: at most ALLOWED_LATE of the requests may fail or take longer.
        out: a CSV file for the rows.

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
        results = measure(target, plans)
    rows = [row for row, _ in results]
    findings = [objective_finding(record, slo_ms) for _, record in results]
    cells = [
        level_cells(row, plan, finding) for row, plan, (finding, _) in zip(rows, plans, findings, strict=True)
    ]
    print(text_table(COLUMNS, cells))
    if out is not None:
        write_rows(out, LevelRow, rows)
    return 0 if all(row.valid for row in rows) and all(kept for _, kept in findings) else 1


def objective_finding(record: LoadRecord, slo_ms: float | None) -> tuple[str, bool]:
    """What is to be said of the objective, empty where there is none, and whether the load keeps it."""
    late = None if slo_ms is None else late_share(record, slo_ms)
    if slo_ms is None or late is None:
        return "", True
    if late <= ALLOWED_LATE:
        return f"{goodput_rps(record, slo_ms):.1f} req/s within {slo_ms:g} ms", True
    missed = f"{late:.1%} failed or took longer than {slo_ms:g} ms, allowed: {ALLOWED_LATE:.0%}"
    return f"objective missed: {missed}; {goodput_rps(record, slo_ms):.1f} req/s within it", False


def measure(target: Target, plans: Sequence[LoadPlan]) -> list[tuple[LevelRow, LoadRecord]]:
    """Run the levels; return the summary and the record of each.

    The server may run anywhere, so its resource usage is unknown. Only the client's CPU is used of the
    telemetry, which follows this process in place of a server.
    """
    with Telemetry(os.getpid()) as telemetry, load_bar(plans, "load") as update_bar:
        records = generate(
            target.url,
            target.bodies,
            target.content_type,
            plans,
            headers=target.headers,
            on_start=telemetry.follow_client,
            on_progress=update_bar,
        )
        cores = [telemetry.usage(*record.window).client_cores for record in records]
    return [
        (level_row(record, Usage(client_cores=client)), record)
        for record, client in zip(records, cores, strict=True)
    ]


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
        "; ".join(filter(None, (verdict, finding))),
    ]
