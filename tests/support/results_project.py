"""Projects with synthetic results of the shipped configurations, on two kinds of machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from litmeter.classifier.model.card import TrainMetrics
from litmeter.classifier.model.rows import PackageRow, PrecisionRow
from litmeter.kinds.command import Command
from litmeter.measure.comparison_rows import OverBefore
from litmeter.measure.rows import ComparisonRow, TurnRow
from litmeter.params import load_params
from litmeter.paths import (
    CEILINGS,
    COMPARISON_TABLE,
    COMPARISON_TURNS,
    COMPILED_TABLE,
    MACHINE,
    PRECISIONS_TABLE,
    README,
    TRAIN_METRICS,
)
from litmeter.report.pages import BEGIN, END
from litmeter.report.snapshot import Tuned
from litmeter.system.files import write_json, write_rows
from litmeter.tune.rows import KnobRow
from tests.support.project import ROOT
from tests.support.search import tuned
from tests.support.synthetic_results import CEILINGS as ROOFLINES
from tests.support.synthetic_results import MACHINE as OWN_MACHINE
from tests.support.synthetic_results import STAGES, compared, result, write_comparison, write_result

COST = {"macs": 384_000_000, "flops": 768_000_000}
TRAINED = TrainMetrics(test_accuracy=0.991, test_images=111, val_accuracy=1.0, best_epoch=2)
BFLOAT16 = OWN_MACHINE | {
    "cpu": "Intel(R) Xeon(R) Processor",
    "cpu_flags": ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"],
    "bfloat16": True,
}
AVX2 = OWN_MACHINE | {"id": "4567", "cpu": "AMD EPYC Processor", "cpu_flags": ["avx2"], "bfloat16": False}
FIGURES: dict[str, dict[str, tuple[float, int, float | None, float, float]]] = {
    BFLOAT16["id"]: {
        "e1_baseline": (20.0, 4, 563.0, 38.0, 35.0),
        "e2_batching": (27.7, 3, 454.0, 40.0, 29.2),
        "e3_workers": (2.6, 5, None, 38.0, 26.0),
        "e4_half": (2.6, 5, None, 60.0, 30.0),
        "e5_timeout": (3.3, 5, None, 60.0, 30.0),
        "e6_batch_cap": (2.9, 5, None, 60.0, 30.0),
        "e7_tuned": (286.0, 1, 41.0, 470.0, 387.0),
        "candidate": (168.0, 2, 67.0, 230.0, 203.0),
    },
    AVX2["id"]: {
        "e1_baseline": (20.0, 3, 510.0, 36.0, 33.0),
        "e2_batching": (28.1, 2, 440.0, 41.0, 30.0),
        "e3_workers": (3.9, 4, 2900.0, 38.0, 26.0),
        "e4_half": (0.8, 5, None, 1.7, 1.6),
        "e5_timeout": (0.8, 5, None, 1.7, 1.6),
        "e6_batch_cap": (0.8, 5, None, 1.7, 1.6),
        "e7_tuned": (169.0, 1, 66.0, 240.0, 205.0),
        "candidate": (170.0, 1, 66.0, 240.0, 205.0),
    },
}
"""By machine and configuration: served rate, rank, p95, rates of the model and of the pipeline in-process."""


def write_project(machine: dict[str, Any] = BFLOAT16, earlier: str = "", changed: bool = False) -> None:
    """Write a project with all results into the current folder.

    Args:
        earlier: a configuration whose row is of an earlier run.
        changed: whether the section serve was changed since the results before.
    """
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["objective"]["configurations"] = ["candidate"]
    Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    README.write_text(f"# A project\n\n{BEGIN}\n\nold\n\n{END}\n\nand more\n")
    rows: list[ComparisonRow] = []
    turns: list[TurnRow] = []
    figures = FIGURES[machine["id"]]
    fastest = max(rate for rate, *_ in figures.values())
    for name, serve in load_params().configurations().items():
        rate, rank, p95_ms, model, pipeline = figures[name]
        row = compared(name, rate, rank, p95_ms, fastest)
        if name == earlier:
            row = replace(row, rank=None, earlier="2026-11-29")
        stages = STAGES | {"model": 900 * 8 / rate, "queue": 80 * 8 / rate}
        own = result(name, rate, model, pipeline, serve=serve, machine=machine, row=row, stage_ms=stages)
        write_result(own)
        rows.append(own.compared)
        turns += own.turns
    write_rows(COMPARISON_TURNS, TurnRow, turns)
    ceilings = ROOFLINES.with_rooflines({"full": 374.0, "half": 748.0}).model_dump() | COST
    if not machine["bfloat16"]:
        del ceilings["precisions"]["half"]
    write_json(CEILINGS, ceilings)
    write_json(MACHINE, machine)
    write_json(TRAIN_METRICS, TRAINED.model_dump())
    changes = {"max_batch_size": (4, 8)}
    over = OverBefore(ratio=1.02, low=0.97, high=1.07, changes=changes, p95_ms=(65.2, 66.1))
    write_comparison(rows, over_before=over if changed else OverBefore())
    packages = [
        PackageRow("full", 4, 64.0, 36.0, None, 1.0, None),
        PackageRow("int8", 1, None, 4.5, None, 1.0, None),
    ]
    write_rows(COMPILED_TABLE, PackageRow, packages)
    changes = [
        PrecisionRow(111, 0.991, 0.958, 0.982, -0.009, 0.002, 0.11, 0.0009, "int8", "torchvision", "test")
    ]
    write_rows(PRECISIONS_TABLE, PrecisionRow, changes)


def searched() -> Tuned:
    """A search whose winner is the section serve."""
    found = tuned(incumbent=True)
    knobs = [KnobRow("precision", "half", 0.9, 0.85, 0.95)]
    return replace(found, knobs=knobs)


NOT_IN_PROCESS = "a command is not run in-process"


def write_own_project(experiments: Mapping[str, dict[str, Any]], serve: dict[str, Any] | None = None) -> None:
    """A project of one's own servers, whose results are the faster the later they stand in params.yaml."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content = {key: content[key] for key in ("load", "objective", "comparison")}
    content["load"] |= {"bodies": "bodies.jsonl"}
    content["comparison"]["reference"] = next(iter(experiments))
    content["objective"]["configurations"] = [next(iter(experiments))]
    content |= {"experiments": dict(experiments)} | ({"serve": serve} if serve else {})
    Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    write_json(MACHINE, {key: value for key, value in OWN_MACHINE.items() if key != "bfloat16"})
    rows: list[ComparisonRow] = []
    turns: list[TurnRow] = []
    configurations = load_params().configurations()
    for number, (name, own) in enumerate(configurations.items(), 1):
        rate_rps, rank = 20.0 * number, len(configurations) + 1 - number
        beside = (None, None) if isinstance(own, Command) else (2 * rate_rps, 1.5 * rate_rps)
        row = compared(name, rate_rps, rank, fastest=20.0 * len(configurations))
        columns = {"stage_ms": {}, "http_cpu_ms": None} if isinstance(own, Command) else {"http_cpu_ms": 9.0}
        found = result(name, rate_rps, *beside, serve=own, row=row, **columns)
        metrics = found.metrics.model_copy(update=dict.fromkeys(("photos", "agreement", "accuracy")))
        write_result(replace(found, metrics=metrics))
        rows.append(found.compared)
        turns += found.turns
    write_rows(COMPARISON_TURNS, TurnRow, turns)
    unavailable = {name: NOT_IN_PROCESS for name, own in configurations.items() if isinstance(own, Command)}
    write_comparison(rows, unavailable=unavailable)
    write_rows(COMPARISON_TABLE, ComparisonRow, rows)
