"""Levels of ``litmeter loadtest``: any server at any URL, loaded by the pipeline's load generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from litmeter.load import LoadPlan
from litmeter.measure.figures import latency_grows
from litmeter.measure.turn import Sample, Schedule, Turn, measure, serve
from litmeter.stats.records import ALLOWED_LATE, LoadRecord, goodput_rps
from litmeter.system.tables import number_cell, pluralise

COLUMNS = (
    *("users", "req/s", "95% interval", "p50 ms", "p95 ms", "p99 ms"),
    *("sent", "ok", "failed", "timed out", "client CPU", "verdict"),
)
GROWS = "latency grows: the server may be overloaded"


def one_after_another(name: str, plans: Sequence[LoadPlan], slo_ms: float | None) -> Schedule[list[Sample]]:
    """Load one subject by each plan; warn where an open loop's latencies grow."""
    yield from serve([name])
    samples = []
    for number, plan in enumerate(plans):
        note = f"{plan.rate_rps:.6g}/s" if plan.rate_rps else pluralise(plan.users, "user")
        sample = yield from measure(Turn(name, plan, number, slo_ms, note))
        record, row = _record_of(sample), sample.row
        if record.rate_rps is not None and not row.void and latency_grows(record):
            row = replace(row, warnings="; ".join(filter(None, (row.warnings, GROWS))))
        samples.append(replace(sample, row=row))
    return samples


def keeps(sample: Sample) -> bool:
    """Whether a level is valid and keeps its objective, where there is one."""
    return not sample.row.void and (sample.row.missed or 0.0) <= ALLOWED_LATE


def level_cells(sample: Sample, slo_ms: float | None) -> list[str]:
    """A level as a row of the table, under COLUMNS."""
    row = sample.row
    verdict = f"not valid: {row.void}" if row.void else "valid"
    return [
        str(row.users) if row.offered_rps is None else f"{row.offered_rps:.6g}/s",
        number_cell(row.rate_rps, 1),
        "-" if row.low_rps is None else f"{row.low_rps:.1f} to {row.high_rps:.1f}",
        *(number_cell(ms, 1) for ms in (row.p50_ms, row.p95_ms, row.p99_ms)),
        *(str(count) for count in (row.sent, row.sent - row.failed - row.timed_out)),
        *(str(count) for count in (row.failed, row.timed_out)),
        f"{_record_of(sample).cores:.0%}",
        "; ".join(filter(None, (verdict, _objective_text(sample, slo_ms), row.warnings))),
    ]


def _objective_text(sample: Sample, slo_ms: float | None) -> str:
    """Whether a load keeps the objective.

    An open loop without one may be valid with any latency, and says that; a closed loop measures the rate.
    """
    record, missed = _record_of(sample), sample.row.missed
    if slo_ms is None:
        return "" if record.rate_rps is None else "no objective given (--slo-ms)"
    if missed is None:
        return ""
    good = f"{goodput_rps(record, slo_ms):.1f} req/s within"
    if missed <= ALLOWED_LATE:
        return f"{good} {slo_ms:g} ms"
    late = f"{missed:.1%} failed or took longer than {slo_ms:g} ms, allowed: {ALLOWED_LATE:.0%}"
    return f"objective missed: {late}; {good} it"


def _record_of(sample: Sample) -> LoadRecord:
    """The record of requests over HTTP, which always have one."""
    assert sample.record is not None
    return sample.record
