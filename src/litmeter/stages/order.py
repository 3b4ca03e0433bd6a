"""In which order the stages run, and how long they take."""

from __future__ import annotations

import os

from litmeter.params import CANDIDATE, Params
from litmeter.system.progress import duration

COMPARISON_ONLY = "LITMETER_COMPARISON_ONLY"
"""Environment variable of a run that ends with the stage ``comparison``, and has no earlier results."""
NOT_COMPARED = ("precisions", "ceilings")
"""Stages before the comparison that it does not read."""
EPOCH_S, BATCH_SIZE_S, INT8_S, BENCHMARK_S, REPORT_S = 7.5, 8.0, 18.0, 33.0, 10.0
"""With those of ``preparing_s``, seen on machines of two cores, with the default model and photos."""


def comparison_only() -> bool:
    """Whether this stage belongs to a run that ends with the stage ``comparison``."""
    return COMPARISON_ONLY in os.environ


def preparing_s(params: Params) -> dict[str, float]:
    """Seconds of each stage before anything is served, in their order."""
    sizes = params.compile.batch_sizes
    int8_s = INT8_S if params.compile.int8_photos else 0.0
    return {
        "machine": 5.0,
        "data": 5.0,
        "train": 15.0 + (0.0 if params.model.checkpoint else EPOCH_S * params.train.epochs),
        "export": 14.0,
        "compile": 12.0 + BATCH_SIZE_S * len(sizes) + int8_s if sizes else 0.0,
        "precisions": 18.0,
        "ceilings": 12.0,
    }


def planned_s(params: Params, *, comparison_only: bool = False) -> dict[tuple[str, ...], float]:
    """Seconds of each stage in the order in which `dvc repro` runs them, by module and argument.

    Args:
        comparison_only: leave out what `dvc repro comparison` does not run.
    """
    planned: dict[tuple[str, ...], float] = {(name,): s for name, s in preparing_s(params).items()}
    comparison: dict[tuple[str, ...], float] = {("comparison",): params.comparison.seconds}
    if comparison_only:
        return {stage: s for stage, s in planned.items() if stage[0] not in NOT_COMPARED} | comparison
    planned |= {("benchmark", name): BENCHMARK_S for name in params.configurations()}
    return planned | comparison | {("report",): REPORT_S}


def place(stage: tuple[str, ...], params: Params, *, comparison_only: bool = False) -> tuple[int, int] | None:
    """The number of a stage, from 1, and of all; None for one that `dvc repro` leaves alone."""
    stages = list(planned_s(params, comparison_only=comparison_only))
    return (stages.index(stage) + 1, len(stages)) if stage in stages else None


def announcement(stage: tuple[str, ...], params: Params, *, comparison_only: bool = False) -> str | None:
    """Where a run stands as a stage begins; None for a stage that stands alone."""
    found = place(stage, params, comparison_only=comparison_only)
    if found is None:
        return None
    number, count = found
    left_s = sum(list(planned_s(params, comparison_only=comparison_only).values())[number - 1 :])
    name = CANDIDATE if stage[-1] == CANDIDATE else " ".join(stage)
    less = "" if comparison_only else ", less what has not changed"
    return f"stage {number} of {count} ({name}), about {duration(left_s)} to the end{less}"


def expected_time(params: Params, *, comparison_only: bool = False) -> str:
    """How long a run takes with the default model and photos, as a sentence."""
    planned = planned_s(params, comparison_only=comparison_only)
    first_s = sum(seconds for (name, *_), seconds in planned.items() if name in preparing_s(params))
    total = f"about {sum(planned.values()) / 60:.0f} minutes on two cores with the default model and photos"
    training = f"{first_s / 60:.2g} to train and compile"
    comparing = f"{params.comparison.seconds / 60:.1f} to compare"
    if comparison_only:
        return f"this run takes {total}: {training}, {comparing}"
    benchmarks = f"{BENCHMARK_S / 60:.2g} for each of {len(params.configurations())} configurations"
    return (
        f"a whole run takes {total}: {training}, {benchmarks}, {comparing} them; "
        "what has not changed is left out"
    )
