"""A project of synthetic results: one configuration is fast, one doubtful, one failed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from litmeter.measure.rows import ComparisonRow, TurnRow
from litmeter.model.precision_rows import ChangeRow, PackageRow
from litmeter.params import load_params
from litmeter.paths import (
    CEILINGS,
    COMPARISON,
    COMPARISON_TURNS,
    COMPILED_TABLE,
    MACHINE,
    PRECISIONS_TABLE,
    README,
    TRAIN_METRICS,
)
from litmeter.report.results_page import BEGIN, END
from litmeter.report.snapshot import Tuned
from litmeter.system.files import write_json, write_rows
from litmeter.tune.rows import KnobRow
from tests.support.project import ROOT
from tests.support.search import tuned
from tests.support.synthetic_results import CEILINGS as ROOFLINES
from tests.support.synthetic_results import compared, level, result, write_result

SLOW = level(1, 20.0, 60.0, warnings="other processes used 14% of the machine")
MIDDLE = level(8, 60.0, 300.0)
DOUBTFUL = level(8, 50.0, 300.0, invalid_reason="unstable")
COST: dict[str, Any] = {
    "macs": 384_000_000,
    "flops": 768_000_000,
    "peak_full_tflops": 0.208,
    "peak_half_tflops": 0.439,
    "peak_source": "measured matrix product",
    "bandwidth_gbs": 53.3,
}
OWN_MACHINE = {
    "id": "0123",
    "cpu": "A CPU",
    "cores": 2,
    "cpu_flags": ["avx2"],
    "memory_gib": 24,
    "gpu": None,
    "torch": "2.0",
    "litserve": "0.2",
}
TRAINED = {
    "test_accuracy": 0.991,
    "test_accuracy_low": 0.951,
    "test_accuracy_high": 0.998,
    "test_images": 111,
}


def write_project() -> None:
    """Write all that the pages are made of into the current folder."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["experiments"] = {name: {} for name in ("e1_baseline", "e2_batching", "e3_workers", "e4_half")}
    content["objective"]["configurations"] = ["candidate"]
    content["comparison"] |= {"reference": "e1_baseline", "users": [8]}
    Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    README.write_text(f"# A project\n\n{BEGIN}\n\nold\n\n{END}\n\nand more\n")
    params = load_params()
    for name, serve in params.configurations().items():
        levels = {"e1_baseline": [SLOW], "e2_batching": [DOUBTFUL]}.get(name, [SLOW, MIDDLE])
        if name == "e3_workers":
            own = result(name, [level(1, 20.0, None, invalid_reason="3 failed")], stages={}, serve=serve)
        else:
            own = result(name, levels, best=levels[-1], serve=serve)
        write_result(own)
    write_json(CEILINGS, ROOFLINES | COST)
    write_json(MACHINE, OWN_MACHINE)
    write_json(TRAIN_METRICS, TRAINED)
    ranked = {"e1_baseline": (20.0, 3), "e2_batching": (50.0, 2), "e3_workers": (None, None, None)}
    rows = [compared(name, *ranked.get(name, (60.0, 1, 100.0))) for name in params.configurations()]
    write_rows(COMPARISON, ComparisonRow, rows)
    rounds = [TurnRow(n, row.users, row.experiment, row.rate_rps, 99, 0) for n in range(4) for row in rows]
    write_rows(COMPARISON_TURNS, TurnRow, rounds)
    packages = [
        PackageRow("full", 4, 64.0, 36.0, None, 1.0, None),
        PackageRow("int8", 1, None, 4.5, None, 1.0, None),
    ]
    write_rows(COMPILED_TABLE, PackageRow, packages)
    changes = [
        ChangeRow(111, 0.991, 0.958, 0.982, -0.009, 0.002, 0.11, 0.0009, "int8", "torchvision", "test")
    ]
    write_rows(PRECISIONS_TABLE, ChangeRow, changes)


def searched() -> Tuned:
    """A search whose winner is what is served."""
    found = tuned(incumbent=True)
    metrics = {"combinations": 8, "raced": 1, "rounds": 30, "users": 8, "model_error": 0.06}
    knobs = [KnobRow("precision", "half", 0.9, None, None, "predicted")]
    return replace(found, metrics=found.metrics | metrics, knobs=knobs)
