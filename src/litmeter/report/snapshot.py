"""All results of a tree: of this one, or of a revision, laid out from git while it is read."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from litmeter.errors import LitmeterError, ReportError, UsageError
from litmeter.measure.capacity import ESTIMATED, CapacityMetrics, CapacityResult, curve_of
from litmeter.measure.comparison_rows import rates_of
from litmeter.measure.rows import ComparisonRow, TurnRow
from litmeter.model.card import exported_weights
from litmeter.model.precision_rows import ChangeRow, PackageRow
from litmeter.params import Params, load_params
from litmeter.paths import (
    CEILINGS,
    COMPARISON,
    COMPARISON_TURNS,
    COMPILED_TABLE,
    MACHINE,
    MODEL,
    PRECISIONS_TABLE,
    TRAIN_METRICS,
    TUNE_KNOBS,
    TUNE_METRICS,
    TUNE_TABLE,
    CapacityPaths,
)
from litmeter.report.diagnosis import Explanation, explain
from litmeter.report.results import Result, read_results
from litmeter.stats.comparison import Ratio, ratio, simultaneous
from litmeter.system.files import read_json, read_rows
from litmeter.system.tables import pluralise
from litmeter.tune.rows import KnobRow, TuneRow

OF_A_REVISION = ("params.yaml", "metrics", "plots")
"""What is read of one."""


@dataclass(frozen=True)
class Lead:
    """How many times the rate of the second the fastest serves."""

    fastest: str
    second: str
    ratio: Ratio


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
        compared: rows of the comparison at its first load, in the order of params.yaml.
        loads: rows at all its loads.
        lead: of the fastest over the second.
        changes, packages: what each precision changes in the answers, and its times.
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
        # It holds for the exported model, which git does not keep.
        tuned=None if label else read_tuned(),
    )


def compared_rows(rows: Sequence[ComparisonRow], params: Params) -> list[ComparisonRow]:
    """The rows at the first load, in the order of params.yaml.

    Raises:
        ReportError: a configuration of params.yaml has no row, or one that it has not has rows.
    """
    users = params.comparison.users[0]
    others = {row.experiment for row in rows} - set(params.configurations())
    if others:
        raise ReportError(
            f"{COMPARISON} has rows of {', '.join(sorted(others))}, which params.yaml has not; "
            "`dvc repro comparison` makes it anew"
        )
    by_name = {row.experiment: row for row in rows if row.users == users}
    missing = [name for name in params.configurations() if name not in by_name]
    if missing:
        raise ReportError(
            f"{COMPARISON} has no row at {pluralise(users, 'user')} of {', '.join(missing)}; "
            "`dvc repro comparison` makes it"
        )
    return [by_name[name] for name in params.configurations()]


def lead_of(rows: Sequence[ComparisonRow], turns: Sequence[TurnRow], reference: str) -> Lead | None:
    """The lead of the fastest over the second; None where fewer than two were ranked.

    Its interval is simultaneous for all others, as the second is known only afterwards.

    Args:
        rows: of one load.
        turns: of all loads.
    """
    ranked = [row for row in rows if row.rank]
    if len(ranked) < 2:
        return None
    fastest, second = sorted(ranked, key=lambda row: (row.rank or 0, -(row.ratio or 0.0)))[:2]
    rates = rates_of(
        [turn for turn in turns if turn.users == fastest.users], [row.experiment for row in ranked]
    )
    error = simultaneous(len(ranked) - 1)
    return Lead(
        fastest.experiment,
        second.experiment,
        ratio(rates, fastest.experiment, second.experiment, reference, error),
    )


def read_tuned() -> Tuned | None:
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
        raise ReportError(f"{paths.metrics}: malformed ({error!r}); `make capacity` makes it") from error
    estimated = metrics.status in ESTIMATED
    return CapacityResult(metrics, rows, curve_of(rows, metrics.miss) if estimated else None)


def read_revision(name: str) -> Snapshot:
    """The results that a commit holds, or an experiment of `dvc exp run`.

    Raises:
        UsageError: there is no such revision; ReportError: it has no complete results.
    """
    revision = _commit_of(name)
    archived = subprocess.run(["git", "archive", revision, *OF_A_REVISION], capture_output=True)
    if archived.returncode:
        raise ReportError(f"{name}: {archived.stderr.decode(errors='replace').strip()}")
    with TemporaryDirectory(prefix="litmeter-") as folder:
        with tarfile.open(fileobj=io.BytesIO(archived.stdout)) as archive:
            if hasattr(tarfile, "data_filter"):  # not in the first releases of Python 3.10 and 3.11
                archive.extractall(folder, filter="data")
            else:
                archive.extractall(folder)
        with _working_in(Path(folder)):
            try:
                return read_snapshot(name)
            except LitmeterError as error:
                raise ReportError(f"{name}: {error}") from error


def _commit_of(name: str) -> str:
    """The commit of a revision or an experiment.

    Raises:
        UsageError: there is none.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import RevError, resolve_rev

    try:
        commit: str = resolve_rev(Repo(".").scm, name)
    except (DvcException, RevError) as error:
        raise UsageError(
            f"{name}: neither a revision nor an experiment of `dvc exp list` ({error})"
        ) from error
    return commit


@contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    """All paths of the project are relative to the current folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
