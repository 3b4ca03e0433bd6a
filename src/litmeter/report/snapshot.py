"""All results of a tree: of this one, or of a revision, laid out from git while it is read."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile

import yaml

from litmeter.errors import LitmeterError, ReportError, UsageError
from litmeter.measure.capacity import ESTIMATED, CapacityMetrics, CapacityResult, curve_of
from litmeter.measure.rows import ComparisonRow, TurnRow
from litmeter.model.card import exported_weights
from litmeter.model.precision_rows import ChangeRow, PackageRow
from litmeter.params import Params, load_params
from litmeter.paths import (
    CEILINGS,
    COMPILED_TABLE,
    DVC_LOCK,
    MACHINE,
    MODEL,
    OVER_BEFORE,
    PRECISIONS_TABLE,
    TRAIN_METRICS,
    TUNE_KNOBS,
    TUNE_METRICS,
    TUNE_TABLE,
    CapacityPaths,
)
from litmeter.report.bounds import Bound, bounds_of
from litmeter.report.diagnosis import Diagnosis, diagnose
from litmeter.report.printed import comparison_table
from litmeter.report.results import Result, explained, read_results
from litmeter.system.files import read_json, read_rows
from litmeter.tune.rows import KnobRow, TuneRow

OF_A_REVISION = ("params.yaml", "dvc.lock", "metrics", "plots")
"""Files and folders of a revision that are read."""


@dataclass(frozen=True)
class Tuned:
    """What a search has found; the winner is the first row."""

    metrics: Mapping[str, Any]
    rows: Sequence[TuneRow]
    knobs: Sequence[KnobRow]


@dataclass(frozen=True)
class Snapshot:
    """Params and results.

    Attributes:
        label: the revision; empty for this tree.
        results, bounds, diagnoses: of each configuration, in the order of params.yaml.
        over_before: metrics/over_before.json, empty where there is none.
        measured_with: what the comparison depended on, by its stage in dvc.lock; None where it is not there.
        changes, packages: what each precision changes in the answers, and its times.
        tuned: what a search has found for this machine and model.
    """

    label: str
    params: Params
    machine: Mapping[str, Any]
    ceilings: Mapping[str, Any]
    train: Mapping[str, Any]
    results: Sequence[Result]
    bounds: Mapping[str, Sequence[Bound]]
    diagnoses: Mapping[str, Diagnosis]
    over_before: Mapping[str, Any]
    measured_with: Any
    changes: Sequence[ChangeRow]
    packages: Sequence[PackageRow]
    tuned: Tuned | None

    @property
    def reference(self) -> str:
        """The configuration that all ratios are taken to."""
        return self.params.comparison.reference

    @property
    def compared(self) -> list[ComparisonRow]:
        """The rows of the comparison."""
        return [result.compared for result in self.results]

    def table(self, *, terminal: bool = False) -> str:
        """The table of results."""
        causes = {name: one.cause for name, one in self.diagnoses.items()}
        device = None if terminal else self.results[0].device
        return comparison_table(self.compared, self.params, causes, device)


@explained()
def read_snapshot(label: str = "") -> Snapshot:
    """Read the results below the current folder.

    Raises:
        ReportError: a result is missing or malformed; ParamsError: params.yaml is.
    """
    params, ceilings = load_params(), read_json(CEILINGS)
    results = read_results(params)
    bounds = {result.name: bounds_of(result, ceilings) for result in results}
    return Snapshot(
        label=label,
        params=params,
        machine=read_json(MACHINE),
        ceilings=ceilings,
        train=read_json(TRAIN_METRICS),
        results=results,
        bounds=bounds,
        diagnoses={one.name: diagnose(one, bounds[one.name], ceilings) for one in results},
        over_before=read_json(OVER_BEFORE) if OVER_BEFORE.exists() else {},
        measured_with=_measured_with(),
        # The stage report does not wait for it.
        changes=read_rows(PRECISIONS_TABLE, ChangeRow) if PRECISIONS_TABLE.exists() else [],
        packages=read_rows(COMPILED_TABLE, PackageRow),
        # It holds for the exported model, which git does not keep.
        tuned=None if label else _read_tuned(),
    )


def _measured_with() -> Any:
    """Code, machine, model, photos and params of the comparison."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    lock = yaml.load(DVC_LOCK.read_bytes(), loader) if DVC_LOCK.exists() else {"stages": {}}  # noqa: S506
    stage = lock["stages"].get("comparison")
    return stage and {key: stage.get(key) for key in ("deps", "params")}


def _read_tuned() -> Tuned | None:
    """What was found for this model on this machine; None where nothing was searched."""
    try:
        metrics = read_json(TUNE_METRICS)
        if not is_of_this_tree(metrics):
            return None
        return Tuned(metrics, read_rows(TUNE_TABLE, TuneRow), read_rows(TUNE_KNOBS, KnobRow))
    except (OSError, KeyError, ValueError):
        return None


def is_of_this_tree(metrics: Mapping[str, Any]) -> bool:
    """Whether a search was made on this machine, and for the exported model where there is one."""
    weights = exported_weights(MODEL.exported)
    same_machine = metrics.get("machine") == read_json(MACHINE)["id"]
    return same_machine and weights in (None, metrics.get("weights_sha256"))


def read_capacity(name: str) -> CapacityResult:
    """What ``make capacity`` has measured of a configuration, on whichever machine.

    Raises:
        ReportError: nothing, or it cannot be read.
    """
    paths = CapacityPaths(name)
    try:
        content = read_json(paths.metrics)
        metrics = CapacityMetrics(**{field.name: content[field.name] for field in fields(CapacityMetrics)})
        rows = read_rows(paths.probes, TurnRow)
    except OSError as error:
        raise ReportError(f"{error.filename}: {error.strerror}; `make capacity` makes it") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ReportError(f"{paths.metrics}: not of this code; `make capacity` makes it anew") from error
    estimated = metrics.status in ESTIMATED
    return CapacityResult(metrics, rows, curve_of(rows, metrics.miss) if estimated else None)


def read_revision(name: str) -> Snapshot:
    """The results that a commit holds, or an experiment of `dvc exp run`.

    Raises:
        UsageError: there is no such revision; ReportError: it has no complete results.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import RevError, resolve_rev

    try:
        revision: str = resolve_rev(Repo(".").scm, name)
    except (DvcException, RevError) as error:
        raise UsageError(
            f"{name}: neither a revision nor an experiment of `dvc exp list` ({error})"
        ) from error
    archived = subprocess.run(
        ["git", "archive", "--format=zip", revision, *OF_A_REVISION], capture_output=True
    )
    if archived.returncode:
        raise ReportError(f"{name}: {archived.stderr.decode(errors='replace').strip()}")
    before = Path.cwd()
    with TemporaryDirectory(prefix="litmeter-") as folder:
        ZipFile(io.BytesIO(archived.stdout)).extractall(folder)
        os.chdir(folder)  # all paths of the project are relative to the current folder
        try:
            return read_snapshot(name)
        except LitmeterError as error:
            raise ReportError(f"{name}: {error}") from error
        finally:
            os.chdir(before)
