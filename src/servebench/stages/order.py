"""In which order the stages run, and how long they take."""

from __future__ import annotations

from servebench.params import CANDIDATE, Params
from servebench.system.progress import duration

PREPARING_S = {
    "machine": 5.0,
    "data": 5.0,
    "train": 45.0,
    "export": 10.0,
    "compile": 35.0,
    "precisions": 15.0,
    "ceilings": 20.0,
}
BENCHMARK_S, REPORT_S = 40.0, 10.0
"""Seen on machines of two cores, with the default model and photos."""


def planned_s(params: Params) -> dict[tuple[str, ...], float]:
    """Seconds of each stage in the order in which `dvc repro` runs them, by module and argument."""
    planned: dict[tuple[str, ...], float] = {(name,): seconds for name, seconds in PREPARING_S.items()}
    planned |= {("benchmark", name): BENCHMARK_S for name in params.configurations()}
    return planned | {("comparison",): params.comparison.seconds, ("report",): REPORT_S}


def place(stage: tuple[str, ...], params: Params) -> tuple[int, int] | None:
    """The number of a stage, from 1, and of all; None for one that `dvc repro` leaves alone."""
    stages = list(planned_s(params))
    return (stages.index(stage) + 1, len(stages)) if stage in stages else None


def announcement(stage: tuple[str, ...], params: Params) -> str | None:
    """Where a run stands as a stage begins; None for a stage that stands alone."""
    found = place(stage, params)
    if found is None:
        return None
    number, count = found
    left_s = sum(list(planned_s(params).values())[number - 1 :])
    name = CANDIDATE if stage[-1] == CANDIDATE else " ".join(stage)
    return (
        f"stage {number} of {count} ({name}), about {duration(left_s)} to the end, less what has not changed"
    )


def expected_time(params: Params) -> str:
    """How long a whole run takes with the default model and photos, as a sentence."""
    names = list(params.configurations())
    preparing_s, comparison_s = sum(PREPARING_S.values()), params.comparison.seconds
    total_s = sum(planned_s(params).values())
    return (
        f"a whole run takes about {total_s / 60:.0f} minutes on two cores with the default model and photos: "
        f"{preparing_s / 60:.2g} to train and compile, {BENCHMARK_S / 60:.2g} for each of {len(names)} "
        f"configurations, {comparison_s / 60:.1f} to compare them; what has not changed is left out"
    )
