"""``litmeter loadtest``: measure any server at any URL with the pipeline's load generator."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from litmeter.load import LoadPlan
from litmeter.load.senders import Sender
from litmeter.measure.figures import latency_grows
from litmeter.measure.log import Log
from litmeter.measure.rows import TurnRow
from litmeter.measure.run import progress, run
from litmeter.measure.subjects import Url
from litmeter.measure.target import Target
from litmeter.measure.turn import Sample, Schedule, Turn, measure, serve
from litmeter.stats.records import ALLOWED_LATE, WINDOWS, goodput_rps
from litmeter.system.files import check_writable, write_rows
from litmeter.system.machine import exclusive_machine
from litmeter.system.tables import number_cell, pluralise, text_table

COLUMNS = (
    *("users", "req/s", "95% interval", "p50 ms", "p95 ms", "p99 ms"),
    *("sent", "ok", "failed", "timed out", "client CPU", "verdict"),
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
        budget_s = sum(plan.warmup_s + plan.max_s / WINDOWS * plan.max_windows for plan in plans)
        with senders as sender, progress(budget_s, "load") as show:
            subjects = {target.url: Url(target.url, sender)}
            samples = run(one_after_another(target.url, plans, slo_ms), subjects, Log(), budget_s, show)
    print(text_table(COLUMNS, [_cells(sample, slo_ms) for sample in samples]))
    if out is not None:
        write_rows(out, TurnRow, [sample.row for sample in samples])
    kept = [not sample.row.void and (sample.row.missed or 0.0) <= ALLOWED_LATE for sample in samples]
    return 0 if all(kept) else 1


def one_after_another(name: str, plans: Sequence[LoadPlan], slo_ms: float | None) -> Schedule[list[Sample]]:
    """Load one subject by each plan; warn where an open loop's latencies grow."""
    yield from serve([name])
    samples = []
    for number, plan in enumerate(plans):
        note = f"{plan.rate_rps:.6g}/s" if plan.rate_rps else pluralise(plan.users, "user")
        sample = yield from measure(Turn(name, plan, number, slo_ms, note))
        row = sample.row
        if plan.rate_rps is not None and not row.void and sample.record and latency_grows(sample.record):
            row = replace(row, warnings="; ".join(filter(None, (row.warnings, GROWS))))
        samples.append(replace(sample, row=row))
    return samples


def _objective_text(sample: Sample, slo_ms: float | None) -> str:
    # An open loop without one may be valid with any latency, and says that; a closed loop measures the rate.
    record, missed = sample.record, sample.row.missed
    assert record is not None
    if slo_ms is None:
        return "" if record.rate_rps is None else NO_OBJECTIVE
    if missed is None:
        return ""
    good = f"{goodput_rps(record, slo_ms):.1f} req/s within"
    if missed <= ALLOWED_LATE:
        return f"{good} {slo_ms:g} ms"
    late = f"{missed:.1%} failed or took longer than {slo_ms:g} ms, allowed: {ALLOWED_LATE:.0%}"
    return f"objective missed: {late}; {good} it"


def _cells(sample: Sample, slo_ms: float | None) -> list[str]:
    row, record = sample.row, sample.record
    assert record is not None
    verdict = f"not valid: {row.void}" if row.void else "valid"
    counts = (row.sent, row.sent - row.failed - row.timed_out, row.failed, row.timed_out)
    return [
        str(row.users) if row.offered_rps is None else f"{row.offered_rps:.6g}/s",
        number_cell(row.rate_rps, 1),
        "-" if row.low_rps is None else f"{row.low_rps:.1f} to {row.high_rps:.1f}",
        *(number_cell(ms, 1) for ms in (row.p50_ms, row.p95_ms, row.p99_ms)),
        *map(str, counts),
        f"{record.cores:.0%}",
        "; ".join(filter(None, (verdict, _objective_text(sample, slo_ms), row.warnings))),
    ]
