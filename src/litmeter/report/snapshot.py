"""All results of a tree: of this one, or of a revision that was laid out in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from litmeter.benchmark.capacity import CapacityResult
from litmeter.benchmark.rows import ComparisonRow, TurnRow
from litmeter.errors import ReportError
from litmeter.inference.precision_rows import ChangeRow, PackageRow
from litmeter.params import Params, load_params
from litmeter.paths import (
    CEILINGS,
    COMPARISON,
    COMPARISON_TURNS,
    COMPILED_TABLE,
    MACHINE,
    PRECISIONS_TABLE,
    TRAIN_METRICS,
)
from litmeter.report.capacity import capacities
from litmeter.report.comparison import Lead, compared_rows, lead_of
from litmeter.report.explain import Explanation, explain
from litmeter.report.results import Result, read_results
from litmeter.report.tune import Tuned, read_tuned
from litmeter.system.files import read_json, read_rows


@dataclass(frozen=True)
class Snapshot:
    """Params and results.

    Attributes:
        label: the revision; empty for this tree.
        compared: rows of the comparison at its first load, in the order of params.yaml.
        loads: rows at all its loads.
        lead: of the fastest over the second.
        changes, packages: what each precision changes in the answers, and its times.
        capacities: by configuration, where they were measured for this machine and model.
        tuned: what a search has found for this machine and model.
    """

    label: str
    params: Params
    machine: Mapping[str, Any]
    ceilings: Mapping[str, Any]
    train: Mapping[str, Any]
    results: Sequence[Result]
    compared: Sequence[ComparisonRow]
    loads: Sequence[ComparisonRow]
    lead: Lead | None
    explanation: Explanation
    changes: Sequence[ChangeRow]
    packages: Sequence[PackageRow]
    capacities: Mapping[str, CapacityResult]
    tuned: Tuned | None

    @property
    def reference(self) -> str:
        """The configuration that all ratios are taken to."""
        return self.params.comparison.reference


def read_snapshot(label: str = "") -> Snapshot:
    """Read the results below the current folder.

    Raises:
        ReportError: a result is missing or malformed; ParamsError: params.yaml is.
    """
    params = load_params()
    try:
        return _read(label, params)
    except OSError as error:
        raise ReportError(f"{error.filename}: {error.strerror}; `dvc repro` makes it") from error
    except (KeyError, ValueError) as error:
        raise ReportError(f"results are malformed ({error!r}); `dvc repro` makes them") from error


def _read(label: str, params: Params) -> Snapshot:
    results = read_results(params)
    loads = read_rows(COMPARISON, ComparisonRow)
    compared = compared_rows(loads, params)
    ceilings = read_json(CEILINGS)
    return Snapshot(
        label=label,
        params=params,
        machine=read_json(MACHINE),
        ceilings=ceilings,
        train=read_json(TRAIN_METRICS),
        results=results,
        compared=compared,
        loads=loads,
        lead=lead_of(compared, read_rows(COMPARISON_TURNS, TurnRow), params.comparison.reference),
        explanation=explain(results, ceilings),
        changes=read_rows(PRECISIONS_TABLE, ChangeRow),
        packages=read_rows(COMPILED_TABLE, PackageRow),
        # They hold for the exported model, which git does not keep.
        capacities={} if label else capacities(params),
        tuned=None if label else read_tuned(),
    )
