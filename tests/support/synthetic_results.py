"""Synthetic results: a healthy configuration on two cores, which each test changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from litmeter.kinds.classifier import Classifier
from litmeter.kinds.configuration import Configuration
from litmeter.measure.comparison_rows import ComparisonResult, OverBefore
from litmeter.measure.levels import NULL_SERVER
from litmeter.measure.rows import BenchmarkMetrics, ComparisonRow, TurnRow
from litmeter.paths import COMPARISON, BenchmarkPaths
from litmeter.report.results import Result
from litmeter.report.snapshot import Snapshot
from litmeter.system.files import write_json, write_rows

CEILINGS: dict[str, Any] = {
    "architecture": "tiny",
    "datasheet_full_rps": None,
    "datasheet_half_rps": None,
    "roofline_full_rps": 110.0,
    "roofline_half_rps": 220.0,
    "roofline_full_bound": "compute",
    "roofline_half_bound": "memory",
    "client_limit_rps": 20_000.0,
}
STAGES = {
    "queue": 1.0,
    "decode": 2.0,
    "preprocess": 1.0,
    "batch_wait": 0.0,
    "model": 10.0,
    "encode": 0.1,
    "transport": 2.0,
}
MACHINE: dict[str, Any] = {
    "id": "0123",
    "cpu": "A CPU",
    "cores": 2,
    "cpu_flags": ["avx2", "avx512_bf16"],
    "bfloat16": True,
    "memory_gib": 24,
    "gpu": None,
    "torch": "2.0",
    "litserve": "0.2",
}
SPEEDS = (1.0, 0.8, 1.2, 0.9, 1.1, 1.0)
"""Speed of the machine by round: rates vary with it, ratios do not."""
USERS = 8


def turn(subject: str, work: str, rate_rps: float | None, number: int = 0, **changes: Any) -> TurnRow:
    """A valid turn in the round ``number``."""
    rate = rate_rps or 1.0
    served = {
        "users": USERS,
        "answers": 200,
        "sent": 220,
        "mean_ms": 1000 * USERS / rate,
        "p50_ms": 900 * USERS / rate,
        "p95_ms": 1500 * USERS / rate,
        "stage_ms": STAGES,
        "http_cpu_ms": 1.0,
        "workers_cpu_ms": 18.0,
        "manager_cpu_ms": 0.5,
        "client_cpu_ms": 0.3,
    }
    own: dict[str, Any] = served if work == "served" else {"workers_cpu_ms": 1900 / rate}
    own |= {"batch_size": 1.0, "cpu_percent": 95.0, "rate_rps": rate_rps, "server_cores": 1.7}
    own |= {"other_percent": 0.0, "steal_percent": 0.0, "workers_wait_ms": 0.0}
    return TurnRow(number, 10.0 * number, 3.0, number, subject, work, **(own | changes))


def result(
    name: str = "e1",
    served: float | None = 60.0,
    model: float | None = 100.0,
    pipeline: float | None = 100.0,
    *,
    serve: Configuration | None = None,
    machine: Mapping[str, Any] = MACHINE,
    noise: float = 0.01,
    more: Sequence[TurnRow] = (),
    null: Mapping[str, Any] | None = None,
    in_process: Mapping[str, Any] | None = None,
    row: ComparisonRow | None = None,
    **changes: Any,
) -> Result:
    """Results of a configuration whose transport costs next to nothing.

    Args:
        served, model, pipeline: rates, images/s; None where not measured.
        noise: relative difference of rates between rounds, besides SPEEDS.
        more: further turns.
        null, in_process: columns of the null server's turn, and of turns in-process.
        row: of the comparison, whose efficiency and rates in-process are replaced.
        changes: columns of the served turns.
    """
    wobble = {"served": 1.0, "model": 1 + noise, "pipeline": 1 - noise}
    turns = [
        turn(name, work, rate * speed * wobble[work] ** (-1) ** number, number, **columns)
        for number, speed in enumerate(SPEEDS)
        for work, rate, columns in (
            ("served", served, changes),
            ("model", model, in_process or {}),
            ("pipeline", pipeline, in_process or {}),
        )
        if rate is not None
    ]
    own = row or compared(name, served, 1)
    efficiency = served / pipeline if served and pipeline else None
    own = replace(
        own,
        model_rps=model,
        pipeline_rps=pipeline,
        efficiency=efficiency,
        efficiency_low=efficiency and efficiency * (1 - 3 * noise),
        efficiency_high=efficiency and efficiency * (1 + 3 * noise),
    )
    idle: dict[str, Any] = {"rate_rps": 800.0, "server_cores": 0.4, "client_cpu_ms": 0.3} | dict(null or {})
    rate_rps = served or 1.0
    return Result(
        name=name,
        serve=serve or Classifier(),
        device="cpu",
        machine=machine,
        metrics=BenchmarkMetrics(
            throughput_rps=served,
            lone_p50_ms=18.0,
            ready_s=4.5,
            memory_mib=400.0,
            null_rps=800.0,
            photos=111,
            agreement=0.997,
            accuracy=0.991,
            mismatched=0,
            failed=0,
        ),
        compared=own,
        turns=[*turns, *more] if not own.earlier else [],
        alone=[
            *(turn(name, "served", rate_rps * 0.5, number, users=1) for number in (0, 1)),
            *(turn(name, "served", rate_rps, number) for number in (0, 1)),
            turn(NULL_SERVER, "served", idle.pop("rate_rps"), **idle),
        ],
    )


def compared(
    name: str, rate_rps: float | None, rank: int | None, p95_ms: float | None = 100.0, fastest: float = 60.0
) -> ComparisonRow:
    """A row of a comparison whose reference serves 20 requests/s."""
    ratio = rate_rps and rate_rps / 20.0
    share = rate_rps and rate_rps / fastest

    def ends(value: float | None, width: float) -> tuple[float | None, float | None]:
        ends = (value and value * (1 - width), value and value * (1 + width))
        return (value, value) if value == 1.0 else ends

    return ComparisonRow(
        name,
        USERS,
        rate_rps,
        *ends(rate_rps, 0.1),
        ratio,
        *ends(ratio, 0.05),
        share,
        *ends(share, 0.03),
        rank,
        p95_ms and p95_ms / 2,
        *ends(p95_ms and p95_ms / 2, 0.1),
        p95_ms,
        *ends(p95_ms, 0.1),
        answers=1000 if p95_ms else 24,
        failed=0,
        rounds=12 if p95_ms else 3,
        turns=12 if p95_ms else 3,
        objective_ms=p95_ms,
    )


def write_result(own: Result) -> None:
    """Write the files of ``own`` below the working directory, as its stage would."""
    write_json(BenchmarkPaths(own.name).metrics, own.metrics.model_dump())
    write_rows(BenchmarkPaths(own.name).turns, TurnRow, own.alone)


def write_comparison(rows: Sequence[ComparisonRow], **facts: Any) -> None:
    """metrics/comparison.json into the current folder; ``facts`` are its other keys."""
    found = ComparisonResult(
        **{
            "date": "2026-01-02",
            "model": None,
            "candidate": None,
            "signatures": {row.experiment: f"{row.experiment}'s" for row in rows},
            "rows": rows,
            "over_before": OverBefore(),
            "unavailable": {},
            "batch_ms": {},
            "ready_s": dict.fromkeys((row.experiment for row in rows), 1.5),
            **facts,
        }
    )
    write_json(COMPARISON, found.model_dump(mode="json"))


def with_change(snapshot: Snapshot, over: OverBefore) -> Snapshot:
    """The snapshot of a run that compared changed settings with those before."""
    return replace(snapshot, comparison=snapshot.comparison.model_copy(update={"over_before": over}))
